"""Paths in files and settings: `~` is the home folder, and what is relative follows the file that it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, StringConstraints

__all__ = ["HubIdOrFolder", "OwnPath", "placed"]

M = TypeVar("M", bound=BaseModel)


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {path.parts[0]}; write the whole path") from None


class _HubId:
    """Marks a text that may be the name of a folder."""


OwnPath = Annotated[Path, AfterValidator(_at_home)]
"""A path on this machine."""
HubIdOrFolder = Annotated[str, StringConstraints(min_length=1), _HubId()]
"""A folder on this machine, or a name on the hub; a relative folder counts as one if it is there."""


def placed(config: M, folder: Path) -> M:
    """`config` with its relative paths, at any depth, taken from `folder`: that of the file it was read from."""
    changes: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            changes[name] = placed(value, folder)
        elif isinstance(value, Path) and not value.is_absolute():
            changes[name] = folder.absolute() / value
        elif isinstance(value, str) and _is_hub_id(field.annotation):
            changes[name] = _folder_or_name(value, folder)
    # Only what changed counts as set, so that what a file leaves out is still known as that.
    changes = {name: value for name, value in changes.items() if value != getattr(config, name)}
    return config.model_copy(update=changes) if changes else config


def _is_hub_id(annotation: Any) -> bool:
    marks = getattr(annotation, "__metadata__", ())
    return any(isinstance(mark, _HubId) for mark in marks) or any(_is_hub_id(part) for part in get_args(annotation))


def _folder_or_name(value: str, folder: Path) -> str:
    path = Path(value).expanduser() if value.startswith("~") else Path(value)
    if value.startswith(("~", "./", "../")) or (folder / path).is_dir():
        return str(folder.absolute() / path)
    return value
