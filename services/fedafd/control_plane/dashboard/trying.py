"""Try the model: a caption finds public pictures, a picture finds captions; of two versions side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Form, PictureForm, Visit, Visitor
from fedafd.control_plane.models.search import Asked, SearchAnswer, search
from fedafd.control_plane.names import FederationName, check_storable
from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.domain.errors import FedafdError, InvalidRequestError
from fedafd.messaging.queries import QueryLine
from fedafd.messaging.query_messages import MAX_CAPTION_CHARACTERS, MAX_PICTURE_BYTES
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import find_version, newest_versions
from fedafd.persistence.models import FederationRow

__all__ = ["router"]

router = page_router()

_VERSIONS = 100
"""The most versions that the page offers, the newest first; an older one is tried from its own page."""
_TOP_K = {"caption": 9, "picture": 12}
_Number = Annotated[int | None, Query(ge=1, le=MAX_INTEGER)]


@dataclass(frozen=True)
class _Column:
    """What one version found, or why it did not."""

    version: int
    answer: SearchAnswer | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What the page shows beside the choice of versions."""

    caption: str = ""
    by: str = ""
    """caption, picture, or empty before anything was asked."""
    columns: Sequence[_Column] = ()
    problem: str = ""
    versions: Sequence[int] = ()
    one: int | None = None
    other: int | None = None

    @property
    def is_preparing(self) -> bool:
        return any(column.answer is not None and column.answer.state == "preparing" for column in self.columns)


@router.get("/federations/{federation}/try")
async def try_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    one: _Number = None,
    other: _Number = None,
) -> Response:
    """The form; `one` and `other` are the versions to begin with."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        versions = await _versions(session, owner, one, other)
    one = one if one is not None else owner.current_version
    is_there = not versions or await QueryLine(context.redis).is_answered()
    problem = "" if is_there else "no query worker is running; start one with `fedafd queries`"
    return _page(request, visitor, owner, _Shown(versions=versions, one=one, other=other, problem=problem))


@router.post("/federations/{federation}/try")
async def tried(request: Request, federation: FederationName, context: ContextDep, form: PictureForm) -> Response:
    """What the chosen versions make of a caption or a picture."""
    one, other = _number(form, "one"), _number(form, "other")
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        versions = await _versions(session, owner, one, other)
    shown = _Shown(versions=versions, one=one, other=other, caption=form.text("caption"), by=form.text("by"))
    try:
        asked = await _asked(form)
    except InvalidRequestError as error:
        return _page(request, form.visit, owner, replace(shown, problem=str(error)), http_status=422)
    numbers = dict.fromkeys(number for number in (one, other) if number is not None)
    columns = await asyncio.gather(*(_column(context, form.visit, federation, number, asked) for number in numbers))
    return _page(request, form.visit, owner, replace(shown, columns=columns))


async def _column(context: Context, visit: Visit, federation: str, version: int, asked: Asked) -> _Column:
    try:
        return _Column(version, await search(context, visit.caller, federation, str(version), asked))
    except FedafdError as error:
        return _Column(version, problem=str(error))


async def _asked(form: Form) -> Asked:
    """What the form asks. Raises InvalidRequestError."""
    by = form.text("by")
    if form.text("one") == "":
        raise InvalidRequestError("choose a version")
    if by == "caption":
        caption = form.text("caption")
        check_storable({"caption": caption})
        if not caption or len(caption) > MAX_CAPTION_CHARACTERS:
            raise InvalidRequestError(f"type a caption of 1 to {MAX_CAPTION_CHARACTERS} characters")
        return Asked(caption=caption, top_k=_TOP_K[by])
    if by == "picture":
        picture = await form.file("picture", MAX_PICTURE_BYTES + 1)
        if not picture:
            raise InvalidRequestError("choose a picture")
        if len(picture) > MAX_PICTURE_BYTES:
            raise InvalidRequestError(f"the picture is larger than {MAX_PICTURE_BYTES >> 20} MiB; choose a smaller one")
        return Asked(picture=picture, top_k=_TOP_K[by])
    raise InvalidRequestError("ask by a caption or by a picture")


def _number(form: Form, name: str) -> int | None:
    text = form.text(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10):
        raise InvalidRequestError(f"{name}: {text[:20]!r} is no number of a version")
    return int(text)


async def _versions(session: AsyncSession, owner: FederationRow, *chosen: int | None) -> list[int]:
    """Those whose folder is there, newest first: the newest, and those that were chosen."""
    rows = list(await newest_versions(session, owner.id, None, _VERSIONS))
    for number in (*chosen, owner.current_version):
        if number is not None and all(row.version != number for row in rows):
            rows += [row for row in [await find_version(session, owner.id, number)] if row is not None]
    return sorted((row.version for row in rows if row.files_removed_at is None), reverse=True)


def _page(request: Request, visit: Visit, owner: FederationRow, shown: _Shown, *, http_status: int = 200) -> Response:
    return federation_page(
        request,
        "try.html",
        visit,
        owner,
        http_status=http_status,
        is_live=False,
        shown=shown,
        most_characters=MAX_CAPTION_CHARACTERS,
        most_megabytes=MAX_PICTURE_BYTES >> 20,
    )
