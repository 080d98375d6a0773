"""The page's HTML. Every section is made by itself: what is wrong with one is said in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from fedafd.agent.state import Credential, StateDirectory
from fedafd.agent.ui.own_look import LookView, OwnLook
from fedafd.agent.ui.own_model import Guess, ModelView, OwnModel, PictureHit
from fedafd.agent.ui.rounds import rounds_of
from fedafd.agent.ui.sent import sent_of
from fedafd.datasets.listing import LeftOutReason
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError

__all__ = ["Page", "Tried"]

T = TypeVar("T")


@dataclass(frozen=True)
class Tried:
    """What came of trying the model, and the text to put back into the form."""

    text: str = ""
    guess: Guess | None = None
    pictures: list[PictureHit] | None = None
    problem: str = ""


class Page:
    """Renders the templates for one site."""

    def __init__(self, config: AgentConfig, *, form_token: str, root: str) -> None:
        """`root` is what paths of links begin with."""
        self._config = config
        self.form_token, self.root = form_token, root
        self._templates = Environment(
            loader=PackageLoader("fedafd.agent.ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {"size": _size, "moment": _moment, "count": lambda number: f"{number:,}"}

    def whole(self, look: OwnLook, model: OwnModel, tried: Tried | None = None) -> Response:
        """All four sections; `tried` is what the form for the model was answered with."""
        root = self._config.state_dir
        looked, look_problem = _or_problem(look.view)
        rounds, rounds_problem = _or_problem(lambda: rounds_of(root))
        modelled, model_problem = _or_problem(model.view)
        return self._render(
            "page.html",
            look=looked,
            look_problem=look_problem,
            reasons={reason.value: reason.words for reason in LeftOutReason},
            rounds=rounds,
            rounds_problem=rounds_problem,
            sent=sent_of(root),
            model=modelled,
            model_problem=model_problem,
            tried=tried or Tried(),
            busy=_busy(looked, modelled),
        )

    def sent(self, number: int) -> Response:
        """One page of the ledger, counted from 1."""
        sent = sent_of(self._config.state_dir)
        return self._render("sent.html", sent=sent, number=min(max(number, 1), sent.pages), busy="")

    def error(self, status: int, words: str) -> Response:
        """A page that says what is wrong."""
        return self._render("error.html", status=status, words=words, busy="")

    def _render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        credential, _ = _or_problem(self._credential)
        html = self._templates.get_template(template).render(
            site=self._config,
            credential=credential,
            token=self.form_token,
            root=self.root,
            now=time.time_ns(),
            status=status,
            **values,
        )
        # Names of files may hold what is no character.
        content = html.encode("utf-8", "backslashreplace")
        return Response(content, status, media_type="text/html")

    def _credential(self) -> Credential | None:
        root = self._config.state_dir
        return StateDirectory(root).load_credential() if (root / "state").is_dir() else None


def _busy(look: LookView | None, model: ModelView | None) -> str:
    """The section that the page comes back to until its work has ended; empty if none works.

    A browser that is told to load the address where it is, with a section in it, scrolls there and loads nothing.
    """
    if model is not None and model.job.running:
        return "model"
    return "data" if look is not None and look.job.running else ""


def _or_problem(make: Callable[[], T]) -> tuple[T | None, str]:
    try:
        return make(), ""
    except (FedafdError, OSError) as error:
        return None, str(error)


def _moment(at: datetime | str) -> str:
    """To the minute, in UTC, as the ledger has it."""
    if isinstance(at, str):
        return at[:16].replace("T", " ")
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _size(count: int) -> str:
    for unit, bytes_each in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} B"
