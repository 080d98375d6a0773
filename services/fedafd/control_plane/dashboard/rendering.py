"""HTML of the dashboard: one set of templates, and the headers that keep a page to itself."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fedafd.control_plane.dashboard.visits import Visit
from fedafd.domain.counted import byte_size
from fedafd.domain.durations import duration_words
from fedafd.persistence.models import utc_now

__all__ = ["PAGE_POLICY", "render", "render_error"]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    # With no-referrer a browser would send its forms from the origin `null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NAMED = re.compile(r"[a-z0-9-]+: ")


def _moment(at: datetime) -> str:
    """To the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _ago(at: datetime, now: datetime) -> str:
    return duration_words((now - at).total_seconds())


def _prose(text: str) -> Markup:
    """A sentence, begun with a capital unless with a name, whose `commands` look like commands."""
    begun = text if _NAMED.match(text) else text[:1].upper() + text[1:]
    pieces = escape(begun).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if number % 2 else piece for number, piece in enumerate(pieces)
    )


_templates = Environment(
    loader=PackageLoader("fedafd.control_plane.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "moment": _moment,
    "ago": _ago,
    "prose": _prose,
    "sh": shlex.quote,
    "size": byte_size,
    "duration": duration_words,
}


def render(
    request: Request, template: str, visit: Visit | None, *, http_status: int = 200, live: str = "", **values: Any
) -> HTMLResponse:
    """A page. `live` is the address of the stream that tells when to look again; empty: it stays as it is."""
    html = _templates.get_template(template).render(
        visit=visit,
        here=request.url.path,
        now=utc_now(),
        live=live,
        has_docs=request.app.openapi_url is not None,
        **values,
    )
    return HTMLResponse(html.encode("utf-8", "backslashreplace"), http_status, headers=_HEADERS)


def render_error(request: Request, status: int, words: str) -> HTMLResponse:
    """A page that says what is wrong, and leads back."""
    visit = getattr(request.state, "visit", None)
    return render(request, "error.html", visit, http_status=status, code=status, words=words)
