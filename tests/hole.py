"""A way to a server that can be closed as a firewall closes it: packets vanish, and no connection ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Hole:
    """Dials `target` (host and port, or the path of a Unix socket) for each who dials 127.0.0.1:`port`."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._passes = threading.Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def swallow(self) -> None:
        """From here on what is sent vanishes until `let_through`."""
        self._passes.clear()

    def let_through(self) -> None:
        """What was sent meanwhile arrives now."""
        self._passes.set()

    def close(self) -> None:
        self.let_through()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
                try:
                    server.connect(self._target)
                except OSError:  # nobody is there at the moment
                    client.close()
                    continue
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pipe, args=pair, daemon=True).start()

    def _pipe(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._passes.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def hole(target: tuple[str, int] | str) -> Iterator[Hole]:
    made = Hole(target)
    yield made
    made.close()
