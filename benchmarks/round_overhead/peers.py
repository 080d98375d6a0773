"""Other systems on the same work: as many clients, as many bytes up and down, and an average of what they sent.

Each runs in an environment of its own, so that its dependencies are not ours: a folder that `--peers` names holds
`flower` and `nvflare`, made by `python3 -m venv DIR/flower && DIR/flower/bin/pip install flwr`, and alike. What is not
there is left out, and the table says so.

- Flower's gRPC server (`start_server`): the lightest way that Flower has, and which it no longer recommends.
- Flower's SuperLink and SuperNodes, as its makers recommend to deploy it: a process for each client, and one more for
  each message; left out with more than 8 clients.
- NVIDIA FLARE's simulator, with a process for each client; left out with more than 50.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.round_overhead import flower_rounds
from benchmarks.round_overhead.superlink import superlink_rounds
from fedafd.local.supervisor import free_port

__all__ = ["Flower", "NvFlare", "Peer", "SuperLink", "find_peers"]

_ROUNDS = 3
"""The first one waits for the clients to join, and warms up."""
_SECONDS = 900.0
_QUIET: dict[str, Any] = {"stderr": subprocess.DEVNULL, "text": True}


class Peer(Protocol):
    """A system beside this one."""

    @property
    def title(self) -> str:
        """Its name, its version, and which of its ways."""

    def rounds(self, clients: int, bytes_up: int, bytes_down: int) -> list[float]:
        """Seconds of each round after the first; none where it cannot run so many clients."""


def find_peers(folder: Path | None) -> tuple[list[Peer], list[str]]:
    """What stands in `folder`, and the names of what does not."""
    known: dict[str, Sequence[Callable[[Path], Peer]]] = {"flower": (Flower, SuperLink), "nvflare": (NvFlare,)}
    peers: list[Peer] = []
    absent = []
    for name, ways in known.items():
        if folder is not None and (folder / name / "bin" / "python").exists():
            peers += [way(folder) for way in ways]
        else:
            absent.append(name)
    return peers, absent


class Flower:
    """Flower in the environment below `peers`."""

    def __init__(self, peers: Path) -> None:
        self._python = peers / "flower" / "bin" / "python"
        self.title = f"Flower {_version(self._python, 'flwr')}, start_server"

    def rounds(self, clients: int, bytes_up: int, bytes_down: int) -> list[float]:
        """Seconds of each round after the first."""
        options = ["--port", str(free_port()), *_options(clients, bytes_up, bytes_down)]
        command = [str(self._python), str(Path(flower_rounds.__file__))]
        with (
            subprocess.Popen([*command, "serve", *options], stdout=subprocess.PIPE, **_QUIET) as server,
            subprocess.Popen([*command, "join", *options], stdout=subprocess.DEVNULL, **_QUIET) as joined,
        ):
            try:
                output, _ = server.communicate(timeout=_SECONDS)
                joined.wait(timeout=60)
            finally:
                server.kill()
                joined.kill()
        return _seconds(self.title, clients, server.returncode, output)


class SuperLink:
    """Flower's SuperLink in the same environment."""

    most_clients = 8

    def __init__(self, peers: Path) -> None:
        self._environment = peers / "flower"
        self.title = f"Flower {_version(self._environment / 'bin' / 'python', 'flwr')}, SuperLink"

    def rounds(self, clients: int, bytes_up: int, bytes_down: int) -> list[float]:
        """Seconds of each round after the first; none with more clients than it can have processes here."""
        if clients > self.most_clients:
            return []
        return superlink_rounds(self._environment, _values(clients, bytes_up, bytes_down), _SECONDS)[1:]


class NvFlare:
    """NVIDIA FLARE in the environment below `peers`."""

    most_clients = 50

    def __init__(self, peers: Path) -> None:
        self._python = peers / "nvflare" / "bin" / "python"
        self.title = f"NVIDIA FLARE {_version(self._python, 'nvflare')}, simulator"

    def rounds(self, clients: int, bytes_up: int, bytes_down: int) -> list[float]:
        """Seconds of each round after the first; none with more clients than it can have processes here."""
        if clients > self.most_clients:
            return []
        # By its path: importing it here would need nvflare.
        script = Path(__file__).with_name("nvflare_rounds.py")
        command = [str(self._python), str(script), *_options(clients, bytes_up, bytes_down)]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_SECONDS, check=False, **_QUIET
        )
        return _seconds(self.title, clients, ended.returncode, ended.stdout)


def _version(python: Path, distribution: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _options(clients: int, bytes_up: int, bytes_down: int) -> Sequence[str]:
    values = _values(clients, bytes_up, bytes_down)
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def _values(clients: int, bytes_up: int, bytes_down: int) -> dict[str, int]:
    return {"clients": clients, "rounds": _ROUNDS, "bytes-up": bytes_up, "bytes-down": bytes_down}


def _seconds(title: str, clients: int, code: int, output: str) -> list[float]:
    if code or not output.strip():
        raise RuntimeError(f"{title}: {clients} clients did not end, exit code {code}")
    seconds: list[float] = json.loads(output.splitlines()[-1])
    return seconds[1:]
