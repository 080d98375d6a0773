"""Pages with opaque cursors: what a client gets back is all it needs to know to go on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from fedafd.domain.errors import InvalidRequestError

__all__ = ["MAX_INTEGER", "Cursor", "Limit", "Page", "decode_name", "decode_number", "encode_cursor", "page_of"]

MAX_INTEGER = 2**31 - 1
"""The largest round number and version that the database holds."""
_MAX_ID = 2**63 - 1

T = TypeVar("T")
R = TypeVar("R")

Cursor = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before; leave it out for the first page.")
]
Limit = Annotated[int, Query(ge=1, le=200, description="The most items of a page.")]


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="Cursor of the next page; null on the last one.")


def page_of(rows: Sequence[R], limit: int, key: Callable[[R], object], show: Callable[[R], T]) -> Page[T]:
    """A page of at most `limit` items from `limit` + 1 rows, so that a cursor always leads to something."""
    more = len(rows) > limit
    kept = rows[:limit]
    return Page(items=[show(row) for row in kept], next_cursor=encode_cursor(key(kept[-1])) if more else None)


def encode_cursor(value: object) -> str:
    """The cursor after an item with this key."""
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def decode_name(cursor: str | None) -> str:
    """The name to go on after; empty for the first page. Raises InvalidRequestError for what is no cursor of ours."""
    if cursor is None:
        return ""
    try:
        name = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        name = ""
    if not name or not name.isprintable() or encode_cursor(name) != cursor:
        raise InvalidRequestError(f"cursor {cursor!r}: is not one that this server gave; leave it out to start anew")
    return name


def decode_number(cursor: str | None, largest: int = MAX_INTEGER) -> int:
    """The number to go on after; 0 for the first page. Raises InvalidRequestError for what is no cursor of ours."""
    if cursor is None:
        return 0
    text = decode_name(cursor)
    if not text.isdecimal() or len(text) > 19 or int(text) > min(largest, _MAX_ID):
        raise InvalidRequestError(f"cursor {cursor!r}: is not one of this list; leave it out to start anew")
    return int(text)
