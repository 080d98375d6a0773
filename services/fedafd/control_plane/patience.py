"""How long a request may take to arrive: its headers, and each piece of its body. Slow ones held connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADER_SECONDS", "PatientBody", "PatientProtocol"]

HEADER_SECONDS = 20.0
"""From a connection's first moment, or the end of the answer before, until the headers are there."""
_BYTES_PER_SECOND = 1024
"""A body that comes slower, after the first `idle_seconds`, is given up."""


class _OneLength(h11.Connection):
    """Refuses a request that says twice, and so perhaps otherwise to a proxy in front, where its body ends."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which closes a connection whose headers do not come, or whose request has two lengths."""

    header_seconds = HEADER_SECONDS

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.conn = _OneLength(h11.SERVER, *([] if (most := config.h11_max_incomplete_event_size) is None else [most]))

    def connection_made(self, transport: Any) -> None:
        """Start to wait."""
        self._deadline: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait while no request is under way."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop()

    def on_response_complete(self) -> None:
        """What comes next has its own time."""
        self._stop()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. A request that is under way hears that its caller is gone, and is answered no more."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class PatientBody:
    """ASGI middleware: 408 for a body of which nothing comes for `idle_seconds`, or that comes drop by drop."""

    def __init__(self, app: ASGIApp, idle_seconds: float) -> None:
        self._app = app
        self._idle_seconds = idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        waited, received, is_whole = 0.0, 0, False  # what the server does meanwhile is not the caller's time

        async def patient() -> Message:
            nonlocal waited, received, is_whole
            if is_whole:  # what is waited for now is the caller going away
                return await receive()
            if waited > self._idle_seconds + received / _BYTES_PER_SECOND:
                raise _late()
            asked = loop.time()
            try:
                async with asyncio.timeout(self._idle_seconds):
                    message = await receive()
            except TimeoutError:
                raise _late() from None
            waited += loop.time() - asked
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, patient, send)


def _late() -> HTTPException:
    # Of the kind that FastAPI lets through while it reads a body.
    return HTTPException(
        408, "the body did not come in time; send it again over a faster line", {"Connection": "close"}
    )
