"""The settings that a `fedafd up` gave its processes, as it noted them in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.own_folders import is_own
from fedafd.domain.whole_files import write_whole
from fedafd.local.aggregator_tls import aggregator_has_tls

__all__ = ["DEFAULT_FOLDER", "UpFolder", "default_folder", "note_settings", "settings_of_folder", "up_folder"]

DEFAULT_FOLDER = Path("fedafd-data")

_FILE = Path("secrets") / "settings.json"


def note_settings(home: Path, settings: dict[str, str]) -> None:
    """Keep them, readable for their owner alone."""
    write_whole(home / _FILE, json.dumps(settings, indent=1), mode=0o600)


def default_folder() -> Path | None:
    """The folder that `fedafd up` takes by default, if it was started here once, by this account."""
    return DEFAULT_FOLDER if _is_ours(DEFAULT_FOLDER) else None


def settings_of_folder(folder: Path) -> dict[str, str]:
    """The settings as environment variables. Raises ConfigurationError for a folder of no `fedafd up`."""
    path = folder / _FILE
    try:
        settings: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}; give the --folder of a `fedafd up` that was started once"
        ) from None
    except ValueError:
        raise ConfigurationError(f"{path}: is not what `fedafd up` wrote; start it again") from None
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: is not what `fedafd up` wrote; start it again")
    return settings


def _is_ours(folder: Path) -> bool:
    try:
        return all(map(is_own, (folder, folder / _FILE.parent, folder / _FILE)))
    except OSError:
        return False


@dataclass(frozen=True)
class UpFolder:
    """Where the processes of a `fedafd up` answer on this machine, and the file of its admin's key."""

    url: str
    key_file: Path
    aggregator: str
    has_tls: bool
    """Of the aggregator."""


def up_folder(folder: Path = DEFAULT_FOLDER) -> UpFolder | None:
    """What a folder of `fedafd up` says; None where there is none of this account, or its key is the operator's own.

    Only ports are read of it, so that no file sends a key to another machine. Another account's folder could send a
    key, or a secret of ours that it links to, to that account's port.
    """
    if not _is_ours(folder):
        return None
    key_file = folder / "secrets" / "admin-key"
    try:
        settings = settings_of_folder(folder)
        is_there = key_file.is_file()
    except (ConfigurationError, OSError):
        return None
    listen = settings.get("FEDAFD_AGGREGATOR_LISTEN", "")
    rest, agents = settings.get("FEDAFD_CONTROL_PLANE_PORT", ""), listen.rpartition(":")[2]
    if not (is_there and rest.isdecimal() and agents.isdecimal()):
        return None
    return UpFolder(
        url=f"{'https' if 'FEDAFD_CONTROL_PLANE_TLS_CERTIFICATE' in settings else 'http'}://127.0.0.1:{rest}",
        key_file=key_file,
        aggregator=f"127.0.0.1:{agents}",
        has_tls=aggregator_has_tls(settings, listen),
    )
