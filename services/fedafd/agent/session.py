"""This process's session with the federation: one live agent per client.

`session.json` in the state folder names the sessions of processes that ran in it, and the place: machine and folder.
Whoever holds the folder's lock knows that they are dead, and says so, so that a restart takes over at once. A copy of
the folder is another place: its agent knows nothing of the kind, and is refused while the first is alive.
"""

from __future__ import annotations

import json
import platform
import secrets
from pathlib import Path

from fedafd.agent.files import write_atomically
from fedafd.rpc.sessions import session_metadata

__all__ = ["AgentSession"]

_FILE = "session.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOST_ENDED = 8


class AgentSession:
    """One process's session. Make it while the state folder is locked."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE
        self._folder_id = _folder_identity(state_dir)
        self.own = secrets.token_hex(8)
        self._ended = self._read()
        # Written before the first call: if this process dies right after it, the next one can say so.
        self._write([*self._ended, self.own])

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return session_metadata(self.own, self._ended)

    def accepted(self) -> None:
        """The aggregator took this session: those before it are of no more interest."""
        if self._ended:
            self._ended = []
            self._write([self.own])

    def _read(self) -> list[str]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return (
                [str(session) for session in content["sessions"]][-_MOST_ENDED:]
                if content["place"] == self._folder_id
                else []
            )
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _write(self, sessions: list[str]) -> None:
        content = {"place": self._folder_id, "sessions": sessions[-_MOST_ENDED:]}
        write_atomically(self._path, json.dumps(content).encode(), mode=0o600)


def _folder_identity(state_dir: Path) -> str:
    """Differs between a folder and any copy of it, and between machines."""
    try:
        machine = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        machine = platform.node()
    status = state_dir.stat()
    return f"{machine}:{status.st_dev}:{status.st_ino}"
