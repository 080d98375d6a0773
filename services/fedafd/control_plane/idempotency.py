"""POST with an Idempotency-Key: however often it is sent, it happens once, and each time the answer is the same.

The remembered answer is written in the transaction that did the thing, under a unique key; so there is no moment at
which one is there without the other, and of two that come at once the second waits for the first and gets its answer.
Only what succeeded is remembered. The answer may hold a secret that is shown once (a token, an API key), so it is
stored encrypted under the caller's own API key, which the server knows only while the caller is calling.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated

from Crypto.Cipher import AES
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Caller, any_caller, at_least
from fedafd.control_plane.context import Context, ContextDep
from fedafd.domain.errors import IdempotencyConflictError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Role
from fedafd.persistence.idempotency_repository import claim_key, keep_answer

__all__ = ["AdminOnce", "AnyCallerOnce", "Once", "OperatorOnce", "ViewerOnce"]

_NONCE_BYTES = 12
_TEXT_START = _NONCE_BYTES + 16
_JSON = "application/json"

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own, best a UUID. The same key with the same request gives the first answer "
        "again for 24 hours; with another request it is refused.",
    ),
]


class Once:
    """Runs an action in one transaction; with a key, at most once."""

    def __init__(self, request: Request, context: Context, caller: Caller, key: str | None, body: bytes) -> None:
        self.caller = caller
        self._context = context
        self._key = None if key is None else f"{caller.id}:{key}"
        self._secret = hmac.new(caller.secret.encode(), f"idempotent answer {key}".encode(), hashlib.sha256).digest()
        described = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + body
        self._request_hash = sha256_of(described)

    async def __call__(
        self,
        act: Callable[[AsyncSession], Awaitable[BaseModel]],
        *,
        status: int = 200,
        location: Callable[[BaseModel], str] | None = None,
        changed: str | None = None,
    ) -> Response:
        """Do it, or answer as before. `changed` is the federation to wake up for.

        Raises IdempotencyConflictError when the key came with another request before, or the caller's secret was
        another then, and what `act` raises.
        """
        async with self._context.database.transaction() as session:
            row = None
            if self._key is not None:
                row, is_new = await claim_key(
                    session, self._key, self._request_hash, self._context.idempotency_lifetime
                )
                if row.request_hash != self._request_hash:
                    raise IdempotencyConflictError(
                        "the Idempotency-Key was used before with another request; take a new key for a new request"
                    )
                if not is_new:
                    return _answer(self._open(row.body), row.status, row.location, replayed=True)
            result = await act(session)
            body = result.model_dump_json().encode()
            address = location(result) if location else None
            if row is not None:
                await keep_answer(session, row, status, address, self._seal(body))
        if changed is not None:
            self._context.wakeups.changed(changed)
        return _answer(body, status, address)

    def _seal(self, body: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        text, tag = AES.new(self._secret, AES.MODE_GCM, nonce=nonce).encrypt_and_digest(body)
        return nonce + tag + text

    def _open(self, sealed: bytes) -> bytes:
        nonce, tag, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:_TEXT_START], sealed[_TEXT_START:]
        try:
            return AES.new(self._secret, AES.MODE_GCM, nonce=nonce).decrypt_and_verify(text, tag)
        except ValueError:
            raise IdempotencyConflictError(
                "the Idempotency-Key was used before, and its answer can be read with the secret that the caller had"
                " then only; what it asked for was done. Take a new key for a new request"
            ) from None


def _answer(body: bytes, status: int, location: str | None, *, replayed: bool = False) -> Response:
    headers = {"Cache-Control": "no-store"}
    if location:
        headers["Location"] = location
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(body, status, headers, _JSON)


def _once(callers: Callable[..., object]) -> Callable[..., Awaitable[Once]]:
    async def make(request: Request, context: ContextDep, caller: Caller = Depends(callers), key: Key = None) -> Once:
        return Once(request, context, caller, key, await request.body())

    return make


OperatorOnce = Annotated[Once, Depends(_once(at_least(Role.OPERATOR)))]
AdminOnce = Annotated[Once, Depends(_once(at_least(Role.ADMIN)))]
ViewerOnce = Annotated[Once, Depends(_once(at_least(Role.VIEWER)))]
AnyCallerOnce = Annotated[Once, Depends(_once(any_caller))]
