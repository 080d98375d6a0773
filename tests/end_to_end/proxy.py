"""One address in front of several aggregators: a TCP proxy that dials the next one that answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from threading import Thread


class _Proxy:
    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._next = count()
        self.listener = socket.create_server(("127.0.0.1", 0))

    def serve(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self.listener.accept()
                Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        for _ in self._ports:
            port = self._ports[next(self._next) % len(self._ports)]
            with suppress(OSError):
                backend = socket.create_connection(("127.0.0.1", port), timeout=5)
                backend.settimeout(None)
                Thread(target=_pipe, args=(backend, client), daemon=True).start()
                _pipe(client, backend)
                return
        client.close()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def proxy(ports: Sequence[int]) -> Iterator[str]:
    """The address of a proxy to these ports of 127.0.0.1."""
    made = _Proxy(ports)
    Thread(target=made.serve, daemon=True).start()
    yield f"127.0.0.1:{made.listener.getsockname()[1]}"
    made.listener.close()
