"""Whether the state folder can be used: its rights and owner, the disk, who holds it, and what is in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.findings import Finding, error, fine, warning
from fedafd.agent.state import StateDirectory
from fedafd.domain.claims import is_claimed
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError

__all__ = ["check_folder"]

_ABOUT = "state folder"
_LEAST_BYTES = 512 << 20
_GOOD_BYTES = 5 << 30
"""The agent's downloads take up to 4 GiB, its state and model less."""


def check_folder(config: AgentConfig) -> list[Finding]:
    """Looks, and leaves nothing behind: the folder may not be there yet, and an agent may be at work in it."""
    folder = config.state_dir.expanduser().absolute()
    there = _nearest(folder)
    if not there.is_dir():
        return [error(_ABOUT, f"{there} is no folder; set state_dir to one", ExitCode.CONFIGURATION)]
    problem = _too_long(folder, there) or _not_writable(there)
    if problem is not None:
        who = f"{folder}: {problem}; run as its owner, or choose another state_dir"
        return [error(_ABOUT, who, ExitCode.CONFIGURATION)]
    if there != folder:
        return [fine(_ABOUT, f"{folder}: will be made at the first start"), _disk(there)]
    return [*_rights(folder), *_content(folder, config), _disk(folder)]


def _nearest(folder: Path) -> Path:
    return next(candidate for candidate in (folder, *folder.parents) if os.path.lexists(candidate))


def _too_long(folder: Path, there: Path) -> str | None:
    """What the file system says of the names of folders that are still to be made."""
    try:
        for part in folder.relative_to(there).parts:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(there / part)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(folder)
    except OSError as failed:
        return (failed.strerror or str(failed)).lower()
    return None


def _not_writable(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"?")
    except OSError as failed:
        return (failed.strerror or str(failed)).lower()
    return None


def _rights(folder: Path) -> list[Finding]:
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return [
            warning(_ABOUT, f"{folder} belongs to user {status.st_uid}, this is user {os.geteuid()}; run as its owner")
        ]
    if status.st_mode & 0o077:
        return [warning(_ABOUT, f"{folder}: others may look into it; the agent will close it (mode 0700)")]
    return []


def _content(folder: Path, config: AgentConfig) -> list[Finding]:
    if not (folder / "state").is_dir():
        return [fine(_ABOUT, f"{folder}: writable, not used yet")]
    state = StateDirectory(folder)
    try:
        credential = state.load_credential()
    except (FedafdError, json.JSONDecodeError) as failed:
        return [error(_ABOUT, str(failed), ExitCode.CONFIGURATION)]
    at_work = ", an agent is at work on it" if is_claimed(folder / "agent.lock") else ""
    last_round = state.current_round()
    done = "no round yet" if last_round is None else f"last round {last_round}"
    if credential is None:
        return [fine(_ABOUT, f"{folder}: not enrolled yet, {done}{at_work}")]
    if credential.kind.value != config.kind.value:
        sentence = f"{folder} is of a client of kind {credential.kind.value}, agent.yaml says {config.kind.value}"
        return [error(_ABOUT, f"{sentence}; correct one, or state_dir", ExitCode.CONFIGURATION)]
    return [fine(_ABOUT, f"{folder}: enrolled as {credential.client_name}, {done}{at_work}")]


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < _LEAST_BYTES:
        return error("disk", f"{text}; a model and its downloads need more", ExitCode.CONFIGURATION)
    return warning("disk", f"{text}; downloads may take 4 GiB") if free < _GOOD_BYTES else fine("disk", text)
