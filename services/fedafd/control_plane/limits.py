"""The largest body of a request: a larger one is refused by its Content-Length, or while it comes in."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedafd.artifacts.manifest import LONGEST_MANIFEST
from fedafd.control_plane.problems import PROBLEM_MEDIA_TYPE, Problem
from fedafd.messaging.query_messages import MAX_PICTURE_BYTES

__all__ = ["BODY_BYTES", "MANIFEST_BYTES", "PICTURE_BYTES", "BodyLimit"]

BODY_BYTES = 1 << 20
"""Of JSON bodies."""
MANIFEST_BYTES = LONGEST_MANIFEST
"""Of a public set's manifest."""
PICTURE_BYTES = MAX_PICTURE_BYTES * 4 // 3 + (64 << 10)
"""Of a query, whose picture is in base64, or a part of a form."""
_MANIFEST = re.compile(r"^/v1/federations/[^/]+/public-set$")
_SHARD = re.compile(r"^/v1/federations/[^/]+/public-set/shards/[^/]+$")
_QUERY = re.compile(r"^(/v1/federations/[^/]+/models/[^/]+/search|/federations/[^/]+/try)$")


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, shard_bytes: int) -> None:
        self._app = app
        self._shard_bytes = shard_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        # More digits than any length has, and than Python reads, are too many as well.
        if announced.isdigit() and (len(announced) > 19 or int(announced) > limit):
            await _refuse(send, limit)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _detail(limit))
            return message

        await self._app(scope, counted, send)

    def _limit(self, path: str) -> int:
        if _SHARD.match(path):
            return self._shard_bytes
        if _QUERY.match(path):
            return PICTURE_BYTES
        return MANIFEST_BYTES if _MANIFEST.match(path) else BODY_BYTES


def _detail(limit: int) -> str:
    return f"the body is longer than {limit} bytes, which is what this path takes"


async def _refuse(send: Send, limit: int) -> None:
    problem = Problem(
        type="urn:fedafd:error:request-too-large",
        title="request too large",
        status=413,
        detail=_detail(limit),
        retryable=False,
        errors=None,
    )
    body = problem.model_dump_json(exclude_none=True).encode()
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    # The rest of the body is not read, so the connection cannot be used again.
    await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
