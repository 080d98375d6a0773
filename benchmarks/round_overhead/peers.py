"""Flower on the same work: as many clients, as many bytes up and down, and an average of what they sent.

Its own gRPC server (`start_server`), which is the lightest way that Flower has and which it no longer recommends: its
SuperLink starts a process for each message. It runs in an environment of its own, so that its dependencies are not
ours: DIR/flower, made by `python3 -m venv DIR/flower && DIR/flower/bin/pip install flwr`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.round_overhead import flower_rounds
from fedafd.local.supervisor import free_port

__all__ = ["Flower"]

_ROUNDS = 3
"""The first one waits for the clients to join, and warms up."""
_SECONDS = 900.0


class Flower:
    """Flower in the environment below `peers`."""

    def __init__(self, peers: Path) -> None:
        self._python = peers / "flower" / "bin" / "python"
        code = "import importlib.metadata as m; print(m.version('flwr'))"
        self.version = subprocess.run(
            [self._python, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()

    def rounds(self, clients: int, bytes_up: int, bytes_down: int) -> list[float]:
        """Seconds of each round after the first."""
        values = {
            "port": free_port(),
            "clients": clients,
            "rounds": _ROUNDS,
            "bytes-up": bytes_up,
            "bytes-down": bytes_down,
        }
        options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        command = [str(self._python), str(Path(flower_rounds.__file__))]
        quiet = {"stderr": subprocess.DEVNULL, "text": True}
        with (
            subprocess.Popen([*command, "serve", *options], stdout=subprocess.PIPE, **quiet) as server,  # type: ignore[call-overload]
            subprocess.Popen([*command, "join", *options], stdout=subprocess.DEVNULL, **quiet) as joined,  # type: ignore[call-overload]
        ):
            try:
                said, _ = server.communicate(timeout=_SECONDS)
                joined.wait(timeout=60)
            finally:
                server.kill()
                joined.kill()
        if server.returncode or not said.strip():
            raise RuntimeError(f"Flower {self.version}: {clients} clients did not end, exit code {server.returncode}")
        seconds: list[float] = json.loads(said.splitlines()[-1])
        return seconds[1:]
