"""Profiles: which control plane, as whom, and which federation, by a name, in the user's configuration file.

    default: hospital
    profiles:
      hospital: {url: https://fedafd.hospital.example, api_key_file: /home/me/hospital.key, federation: lungs}

A profile holds the name of a key's file, never a key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedafd.cli.doctor.up_folder import up_folder
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.whole_files import write_whole
from fedafd.domain.yaml_files import read_yaml

__all__ = ["Profile", "Profiles", "apply_profile", "profiles_file", "read_profiles", "write_profiles"]

_VARIABLES = {"url": "FEDAFD_URL", "api_key_file": "FEDAFD_API_KEY_FILE", "federation": "FEDAFD_FEDERATION"}
_WHERE = ("FEDAFD_URL", "FEDAFD_API_KEY", "FEDAFD_API_KEY_FILE")
"""Variables that say where to and as whom: with one of them set the default profile counts for nothing."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One control plane. What is None is taken from the environment or an option."""

    url: str | None = None
    api_key_file: str | None = None
    federation: str | None = None

    def variables(self) -> dict[str, str]:
        """As the variables that commands read."""
        return {_VARIABLES[name]: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """All of a user's profiles, and the one that holds where none is named."""

    default: str | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)


def profiles_file() -> Path:
    """`~/.config/fedafd/config.yaml`, or where the platform keeps such files; FEDAFD_CONFIG names another."""
    from platformdirs import user_config_path

    given = os.environ.get("FEDAFD_CONFIG")
    return Path(given) if given else user_config_path("fedafd") / "config.yaml"


def read_profiles(path: Path) -> Profiles:
    """The file's profiles; none where there is no file. Raises ConfigurationError naming the key that is wrong."""
    if not path.exists():
        return Profiles()
    values = _mapping(read_yaml(path) or {}, f"{path}", ("default", "profiles"))
    named = _mapping(values.get("profiles") or {}, f"{path}: profiles", None)
    profiles = {
        name: Profile(
            **_texts(_mapping(fields or {}, f"{path}: profiles.{name}", tuple(_VARIABLES)), f"{path}: {name}")
        )
        for name, fields in named.items()
    }
    default = values.get("default")
    if default is not None and default not in profiles:
        raise ConfigurationError(f"{path}: default: there is no profile {default!r}; {_there_are(profiles)}")
    return Profiles(default=default, profiles=profiles)


def write_profiles(path: Path, profiles: Profiles) -> None:
    """Write the file, whole or not at all, readable for its owner alone. Raises ConfigurationError."""
    kept = {
        name: {key: value for key, value in asdict(profile).items() if value}
        for name, profile in profiles.profiles.items()
    }
    text = yaml.safe_dump({"default": profiles.default, "profiles": kept}, sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, text, mode=0o600)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None


def apply_profile(name: str | None, environment: MutableMapping[str, str]) -> None:
    """Put a profile into `environment`: the one that is named, over what is set there, else the default one.

    Without any, it is the `fedafd up` whose folder is here.

    The default one counts as a whole or not at all, so that no key goes to a control plane that it is not for.
    Raises ConfigurationError.
    """
    if not name and any(environment.get(variable) for variable in _WHERE):
        return
    path = profiles_file()
    known = read_profiles(path)
    chosen = name or known.default
    if chosen is None:
        if (up := up_folder()) is not None:
            environment.update({"FEDAFD_URL": up.url, "FEDAFD_API_KEY_FILE": str(up.key_file)})
        return
    if chosen not in known.profiles:
        raise ConfigurationError(f"--profile {chosen}: {path} has no such; {_there_are(known.profiles)}")
    variables = known.profiles[chosen].variables()
    if name:
        for variable in _WHERE:
            environment.pop(variable, None)
    elif environment.get("FEDAFD_FEDERATION"):
        variables.pop("FEDAFD_FEDERATION", None)
    environment.update(variables)


def _mapping(values: Any, where: str, known: tuple[str, ...] | None) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where}: must hold keys{': ' + ', '.join(known) if known else ''}")
    for key in values:
        if not isinstance(key, str) or (known is not None and key not in known):
            raise ConfigurationError(f"{where}: {key}: unknown key; expected {', '.join(known or ('names',))}")
    return values


def _texts(values: Mapping[str, Any], where: str) -> dict[str, str]:
    for key, value in values.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}.{key}: must be a text; found {value!r}")
    return dict(values)


def _there_are(profiles: Mapping[str, Profile]) -> str:
    return f"there are {', '.join(profiles)}" if profiles else "there is none yet: `fedafd profile set NAME --url URL`"
