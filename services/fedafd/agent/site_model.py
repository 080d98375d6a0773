"""The site's own model: a folder that anybody at the site can load, whatever the site shares.

    model -> models/round-<n>-<hash>    a link to the model after the last delivered round, replaced in one step
    models/round-<n>-<hash>/            complete: encoders, head, labels, card; the hash is of the state's file. By its
                                        SHA256SUMS a new agent finds what was damaged meanwhile

The folder is made from what the agent holds already - the state, and the round's encoders among the downloads - once
a round is delivered, so that it takes nothing from the round's time or memory. A round that is rejected, or closes
first, changes nothing: the model stays that of the last delivered round, as the state does. Whoever reads through the
link gets one whole model, the old or the new.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.files import disk_full_is_clear, sync_file, sync_folder
from fedafd.agent.state import MODEL_SOURCE_FILE, STATE_FILE, StateDirectory
from fedafd.domain.errors import ConfigurationError, DataError, FedafdError
from fedafd.domain.hashing import file_sha256
from fedafd.domain.kinds import Modality
from fedafd.domain.whole_files import remove_leftover
from fedafd.learning.model_sums import check_sums
from fedafd.telemetry.logging import get_logger

__all__ = ["SiteModel"]

_LINK, _FOLDERS, _PART = "model", "models", ".part"
_NAME = re.compile(r"^round-(\d+)-")
_log = get_logger(__name__)


class SiteModel:
    """`model` and `models` in one agent's state directory."""

    def __init__(self, root: Path) -> None:
        self._link, self._folders = root / _LINK, root / _FOLDERS
        self._looked_at: Path | None = None
        """The folder that is known to be whole: it is read once by each agent."""

    def current(self) -> Path | None:
        """The folder that `model` leads to; None before the first delivered round."""
        target = self._link.resolve()
        return target if self._link.is_symlink() and target.is_dir() else None

    def round_number(self) -> int | None:
        """The round that the current model is of; None where there is none, or it does not say."""
        current = self.current()
        named = None if current is None else _NAME.match(current.name)
        return int(named.group(1)) if named else None

    def refresh(self, state: StateDirectory, cache: ArtifactCache) -> None:
        """Make the model of the last delivered round if it is not there. Logs why it cannot be; never raises that."""
        try:
            self._refresh(state, cache)
        except (FedafdError, OSError) as error:
            self._sweep()
            _log.error("agent.model_not_written", folder=str(self._link), reason=str(error))

    def _refresh(self, state: StateDirectory, cache: ArtifactCache) -> None:
        newest = state.current_folder()
        if newest is None:
            return
        number, folder = newest
        target = self._folders / f"round-{number}-{_checked_hash(folder)[:12]}"
        self._forget_damaged(target)
        current = self.current()
        if current is not None and current == target.resolve():
            self._sweep()
            return
        if not target.is_dir():
            if not (folder / MODEL_SOURCE_FILE).is_file():
                _log.info("agent.model_not_written", reason="the state is of an older agent; the next round makes it")
                return
            self._write(target, folder, cache)
        self._lead_to(target)
        self._sweep()
        _log.info("agent.model_ready", folder=str(self._link), round=number)

    def _write(self, target: Path, folder: Path, cache: ArtifactCache) -> None:
        from fedafd.learning.personalized_export import Recipe, write_personalized_model

        source = _read_source(folder / MODEL_SOURCE_FILE)
        recipe = Recipe.from_json(source["recipe"])
        bundles = {}
        for modality in recipe.kind.modalities:
            sha256 = str(source["bundles"].get(modality.value))
            path = cache.find(sha256)
            if path is None:
                raise DataError(
                    f"the {modality.value} encoder of the state's round ({sha256[:12]}) is no longer among the"
                    " downloads; the next round makes the model"
                )
            bundles[Modality(modality)] = path
        part = target.with_name(f"{target.name}{_PART}")
        remove_leftover(part)
        with disk_full_is_clear(self._folders.parent):
            part.mkdir(parents=True)
            write_personalized_model(part, recipe, state=folder / STATE_FILE, bundles=bundles)
            _sync_all(part)
            part.rename(target)
        sync_folder(self._folders)
        self._looked_at = target

    def _forget_damaged(self, folder: Path) -> None:
        """Move a folder out of the way whose files are not those that were written."""
        if self._looked_at == folder or not folder.is_dir():
            return
        try:
            check_sums(folder)
        except DataError as error:
            _log.warning("agent.model_damaged", folder=str(self._link), reason=str(error))
            folder.rename(folder.with_name(f"{folder.name}.damaged{_PART}"))
            return
        self._looked_at = folder

    def _lead_to(self, target: Path) -> None:
        if self._link.is_dir() and not self._link.is_symlink():
            raise ConfigurationError(f"{self._link}: is a folder of somebody else's; move it away")
        fresh = self._link.with_name(f".{_LINK}.{os.getpid()}{_PART}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.relative_to(self._link.parent), target_is_directory=True)
        fresh.replace(self._link)
        sync_folder(self._link.parent)

    def _sweep(self) -> None:
        """Remove what the link does not lead to, and what a crash left half made."""
        for leftover in self._link.parent.glob(f".{_LINK}.*{_PART}"):
            leftover.unlink(missing_ok=True)
        current = self.current()
        with suppress(OSError):
            for folder in self._folders.iterdir():
                if current is None and not folder.name.endswith(_PART):
                    continue
                if current is not None and folder.name == current.name:
                    continue
                if folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    folder.unlink()


def _read_source(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
        return {"recipe": dict(values["recipe"]), "bundles": dict(values["bundles"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; the next round makes the model") from None


def _checked_hash(folder: Path) -> str:
    """SHA-256 of the state in a folder. Raises DataError if the file is not what was written."""
    path = folder / STATE_FILE
    try:
        sha256 = file_sha256(path)
        noted = json.loads((folder / "result.json").read_bytes()).get("state_sha256", sha256)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{folder}: cannot be read: {error}; the model of before stays") from None
    if noted != sha256:
        raise DataError(f"{path}: was changed or damaged since it was written; the model of before stays")
    return sha256


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
