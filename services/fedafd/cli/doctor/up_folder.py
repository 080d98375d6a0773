"""The settings that a `fedafd up` gave its processes, as it noted them in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from fedafd.domain.errors import ConfigurationError

__all__ = ["note_settings", "settings_of_folder"]

_FILE = Path("secrets") / "settings.json"


def note_settings(home: Path, settings: dict[str, str]) -> None:
    """Keep them, readable for their owner alone."""
    path, part = home / _FILE, home / _FILE.with_suffix(".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    part.replace(path)


def settings_of_folder(folder: Path) -> dict[str, str]:
    """The settings as environment variables. Raises ConfigurationError for a folder of no `fedafd up`."""
    path = folder / _FILE
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}; give the --folder of a `fedafd up` that was started once"
        ) from None
    except ValueError:
        raise ConfigurationError(f"{path}: is not what `fedafd up` wrote; start it again") from None
    return found
