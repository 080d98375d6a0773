"""What a process uses of the machine, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["forget_peak", "own_bytes", "peak_bytes", "resident_bytes"]


def forget_peak(pid: int) -> None:
    """The peak of resident memory starts anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def own_bytes(pid: int) -> int:
    """Resident memory that is the process's own: pages of files, which the system takes back at will, not counted."""
    return _status(pid, "RssAnon")


def resident_bytes(pid: int) -> int:
    """Resident memory, pages of files included."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The peak of that since `forget_peak`."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}")
