"""`fedafd agent export`: the site's model copied to a folder of its own, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedafd.agent.best_model import BestModel, write_best
from fedafd.agent.files import disk_full_is_clear, sync_folder
from fedafd.agent.site_model import SiteModel
from fedafd.domain.errors import ConfigurationError, ConflictError, DataError

__all__ = ["export_best_model", "export_site_model"]

T = TypeVar("T")
_AGENTS_OWN = ("models", "state", "artifacts", "pixels", "features", "data")
"""Folders of a state directory that the agent clears by itself."""


def export_best_model(state_dir: Path, output: Path, *, force: bool = False) -> BestModel:
    """Write the best of the site's models by its validation split to `output`; otherwise as export_site_model."""
    return _exported(state_dir, output, lambda part: write_best(state_dir, part), force=force)


def export_site_model(state_dir: Path, output: Path, *, force: bool = False) -> Path:
    """Copy the model of the last delivered round to `output`; returns the folder that was copied.

    An agent may be running. Raises DataError if there is no model yet, ConflictError if `output` is there; `force`
    replaces a model folder, and nothing else.
    """
    return _exported(state_dir, output, lambda part: _copy(SiteModel(state_dir), state_dir, part), force=force)


def _exported(state_dir: Path, output: Path, make: Callable[[Path], T], *, force: bool) -> T:
    if not state_dir.is_dir():
        raise DataError(f"{state_dir}: no such folder; name the agent's state_dir, or its agent.yaml with --config")
    if output.exists() or output.is_symlink():
        _check_may_replace(output, force=force)
    _check_is_no_folder_of_the_agent(output, state_dir)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        part.rmdir()
    except OSError as error:
        raise ConfigurationError(f"{output}: cannot be made: {error.strerror}; name another folder") from None
    try:
        with disk_full_is_clear(output.parent):
            source = make(part)
        _put(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(output.parent)
    return source


def _copy(model: SiteModel, state_dir: Path, part: Path) -> Path:
    """Copy the current model; if a round replaces it meanwhile, the new one."""
    while True:
        source = model.current()
        if source is None:
            raise DataError(
                f"{state_dir}: has no model yet; the agent makes one after each round that it delivered, and at its"
                " start where there is a state"
            )
        try:
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
        except (shutil.Error, FileNotFoundError):
            if model.current() == source:
                raise
            continue
        return source


def _put(part: Path, output: Path) -> None:
    if not output.exists():
        part.rename(output)
        return
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    output.rename(old)
    try:
        part.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)


def _check_is_no_folder_of_the_agent(output: Path, state_dir: Path) -> None:
    target, root = output.resolve(), state_dir.resolve()
    for name in _AGENTS_OWN:
        if target.is_relative_to(root / name):
            raise ConflictError(
                f"{output}: is in {root / name}, where the agent removes what it does not need; name a folder elsewhere"
            )


def _check_may_replace(output: Path, *, force: bool) -> None:
    if not force:
        raise ConflictError(f"{output}: is there already; name another folder, or add --force to replace a model")
    if output.is_symlink() or not _is_model(output):
        raise ConflictError(f"{output}: is no folder of a FedAFD model, and --force replaces nothing else")


def _is_model(folder: Path) -> bool:
    try:
        described = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return folder.is_dir() and not any(folder.iterdir())
    return isinstance(described, dict) and str(described.get("model_type", "")).startswith("fedafd-")
