"""A line to a gRPC server that loses answers, is slow, or refuses, as a network does between two machines."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.hole import Hole

__all__ = ["GrpcLine"]

_HEAD_BYTES = 9
_HEADERS = 1
"""The kind of HTTP/2 frame that an answer begins with."""


class GrpcLine(Hole):
    """Dials `target` for each who dials 127.0.0.1:`port`. HTTP/2 without TLS."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._loses, self._delay_seconds = threading.Event(), 0.0
        self._open: set[socket.socket] = set()
        self._server = target
        super().__init__(target)

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        """Calls arrive and are served; where an answer begins, the connection breaks."""
        self._loses.set()
        yield
        self._loses.clear()

    @contextmanager
    def slow(self, seconds: float = 0.25) -> Iterator[None]:
        """Every piece that is sent, of 64 KiB at most, takes so long more."""
        self._delay_seconds = seconds
        yield
        self._delay_seconds = 0.0

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """All connections end, and no other is taken."""
        # Closing alone does not wake who waits for a connection.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()
        yield
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        super().close()
        self._end_all()

    def _end_all(self) -> None:
        for each in list(self._open):
            _end(each)

    def _serve(self) -> None:
        listener = self._listener
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self._server)
                except OSError:  # nobody is there at the moment
                    client.close()
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open |= {client, server}
                threading.Thread(target=self._pipe, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _pipe(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._passes.wait()
                self._send(target, data)
        self._end(source, target)

    def _answers(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while head := _exactly(source, _HEAD_BYTES):
                body = _exactly(source, int.from_bytes(head[:3], "big"))
                self._passes.wait()
                if head[3] == _HEADERS and self._loses.is_set():
                    break
                self._send(target, head + body)
        self._end(source, target)

    def _send(self, target: socket.socket, data: bytes) -> None:
        if self._delay_seconds:
            time.sleep(self._delay_seconds)
        target.sendall(data)

    def _end(self, *pair: socket.socket) -> None:
        for each in pair:
            _end(each)
            self._open.discard(each)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, length: int) -> bytes:
    """Nothing where the connection ends before."""
    found = bytearray()
    while len(found) < length:
        if not (data := source.recv(length - len(found))):
            return b""
        found += data
    return bytes(found)
