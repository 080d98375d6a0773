"""The form's fields and one file, in memory alone: an upload is never written to disk, and has a largest size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from fedafd.domain.errors import InvalidRequestError

__all__ = ["FILE_BYTES", "Form", "read_form"]

FILE_BYTES = 64 << 20
"""Of one upload."""
_TEXT_BYTES = 1 << 20
_FRAME_BYTES = 64 << 10
"""For the form's boundaries and headers."""
_READ_SECONDS = 60.0


@dataclass(frozen=True)
class Form:
    """What a form sent; absent fields are empty."""

    fields: dict[str, str]
    file_name: str = ""
    content: bytes = b""


async def read_form(request: Request) -> Form:
    """The form in a request. Raises InvalidRequestError for one that is too large, and for a request without a form."""
    limit = FILE_BYTES + _TEXT_BYTES + _FRAME_BYTES
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large()
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequestError("this is no form of the page")
    parser = MultiPartParser(
        request.headers, _limited(request, limit), max_files=1, max_fields=4, max_part_size=_TEXT_BYTES
    )
    parser.spool_max_size = limit + 1  # above what can come: no temporary file
    try:
        async with asyncio.timeout(_READ_SECONDS):
            form = await parser.parse()
    except (MultiPartException, KeyError, ClientDisconnect, TimeoutError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "the upload broke off"
        raise InvalidRequestError(f"the form cannot be read: {reason}") from None
    try:
        return await _read(list(form.multi_items()))
    finally:
        await form.close()


async def _read(items: list[tuple[str, UploadFile | str]]) -> Form:
    fields = {name: value for name, value in items if isinstance(value, str)}
    for value in (value for _, value in items if isinstance(value, UploadFile)):
        content = await value.read()
        if len(content) > FILE_BYTES:
            raise _too_large()
        return Form(fields, value.filename or "", content)
    return Form(fields)


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large()
        yield chunk


def _too_large() -> InvalidRequestError:
    return InvalidRequestError(f"the file is larger than {FILE_BYTES >> 20} MiB; give a smaller one")
