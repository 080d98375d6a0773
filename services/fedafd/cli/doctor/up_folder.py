"""The settings that a `fedafd up` gave its processes, as it noted them in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.whole_files import write_whole

__all__ = ["note_settings", "settings_of_folder"]

_FILE = Path("secrets") / "settings.json"


def note_settings(home: Path, settings: dict[str, str]) -> None:
    """Keep them, readable for their owner alone."""
    write_whole(home / _FILE, json.dumps(settings, indent=1), mode=0o600)


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
    return settings
