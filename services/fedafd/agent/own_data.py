"""The site's data at start: every sample is looked at before the agent enrols, and again only when the files change.

Layout below the state directory, for the site's own eyes:

    data/look.json    the last look: a stamp of the files it was at, the report, the training samples left out
    data/look.npz     digests of all samples then
    data/start.npz    digests at the agent's last start, to tell what changed since
    data/changes.json how many samples had come and gone at that start
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL

from fedafd.agent.files import write_atomically
from fedafd.datasets import ClientData, DataFingerprint, load_client_data
from fedafd.datasets.facts import REPORT_VERSION, DataReport
from fedafd.datasets.fingerprint import Change
from fedafd.datasets.repeats import without
from fedafd.datasets.report import Progress, survey
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import ConfigurationError, DataError

__all__ = [
    "KeptLook",
    "OwnData",
    "changed_at_start",
    "changed_since_start",
    "kept_look",
    "load_own_data",
    "look_at",
    "note_start",
    "stamp_of",
]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """Data that can be trained on, and what the look at them found."""

    data: ClientData
    report: Mapping[str, Any]
    """DataReport.to_dict's."""
    fingerprint: DataFingerprint
    looked: bool
    """False if the files are as they were at an earlier look."""


@dataclass(frozen=True, kw_only=True)
class KeptLook:
    """An earlier look at the data, whether or not they are still the same."""

    report: Mapping[str, Any]
    """DataReport.to_dict's."""
    stamp: str
    """`stamp_of` then."""
    at: datetime


def look_at(config: AgentConfig, progress: Progress | None = None) -> tuple[ClientData, DataReport]:
    """Load the data and look at every sample; with `data.drop_repeats` without those that another split holds, too.

    Raises ConfigurationError, DataError where the adapter finds nothing to look at.
    """
    data, report, _ = _look(config, progress)
    return data, report


def load_own_data(config: AgentConfig, root: Path, progress: Progress | None = None) -> OwnData:
    """Load the data, and look at every sample unless the files are those of the look kept below `root`.

    Raises ConfigurationError, DataError if the data cannot be used.
    """
    stamp = stamp_of(config)
    kept = None if stamp is None else _kept(root, stamp)
    if kept is not None:
        report, dropped, fingerprint = kept
        data = without(_load(config), dropped) if dropped else _load(config)
        return OwnData(data=data, report=report, fingerprint=fingerprint, looked=False)
    data, look, dropped = _look(config, progress)
    problems = look.problems()
    if problems:
        raise DataError(f"the data cannot be used: {'; '.join(problems)} (`fedafd agent check` shows all)")
    if stamp is not None:
        _keep(root, stamp, look, dropped)
    return OwnData(data=data, report=look.to_dict(), fingerprint=look.fingerprint, looked=True)


def kept_look(root: Path) -> KeptLook | None:
    """The look that an agent's start left below `root`; None where there is none that can be read."""
    path = root / "data" / "look.json"
    try:
        at, values = datetime.fromtimestamp(path.stat().st_mtime, UTC), json.loads(path.read_bytes())
        report = dict(values["report"])
        if (values["format"], report["version"]) != (_FORMAT, REPORT_VERSION):
            return None
        return KeptLook(report=report, stamp=str(values["stamp"]), at=at)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def changed_since_start(root: Path, fingerprint: DataFingerprint) -> dict[str, Change]:
    """What came and went since the agent's last start, by split; empty before the first start."""
    try:
        earlier = DataFingerprint.from_bytes((root / "data" / "start.npz").read_bytes())
    except (OSError, DataError):
        return {}
    return fingerprint.changes_since(earlier)


def changed_at_start(root: Path) -> dict[str, Change]:
    """What had come and gone at the agent's last start, since the one before."""
    try:
        values = json.loads((root / "data" / "changes.json").read_bytes())
        return {str(split): Change(int(added), int(removed)) for split, (added, removed) in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def note_start(root: Path, fingerprint: DataFingerprint) -> None:
    """Remember what the data are at this start, and how they changed since the last one."""
    (root / "data").mkdir(exist_ok=True)
    changes = json.dumps(changed_since_start(root, fingerprint)).encode()
    write_atomically(root / "data" / "changes.json", changes, mode=0o600)
    write_atomically(root / "data" / "start.npz", fingerprint.to_bytes(), mode=0o600)


def _load(config: AgentConfig) -> ClientData:
    data = config.data
    if data.path is not None and _lies_in(config.state_dir, data.path):
        raise ConfigurationError(
            f"state_dir {config.state_dir} lies in the folder of the data, {data.path}, and its files would be taken"
            " for data; set state_dir to a folder outside of it"
        )
    return load_client_data(data.adapter, data.path, config.kind, data.options, data.partition)


def _lies_in(inner: Path, outer: Path) -> bool:
    try:
        return inner.resolve().is_relative_to(outer.resolve())
    except (OSError, RuntimeError, ValueError):  # a name that is no path; whoever opens it tells
        return False


def _look(config: AgentConfig, progress: Progress | None) -> tuple[ClientData, DataReport, tuple[int, ...]]:
    surveyed = survey(_load(config), progress=progress)
    if config.data.drop_repeats:
        return surveyed.dropped()
    return surveyed.data, surveyed.report, ()


def _keep(root: Path, stamp: str, report: DataReport, dropped: tuple[int, ...]) -> None:
    (root / "data").mkdir(exist_ok=True)
    write_atomically(root / "data" / "look.npz", report.fingerprint.to_bytes(), mode=0o600)
    values = {"format": _FORMAT, "stamp": stamp, "dropped": dropped, "report": report.to_dict()}
    write_atomically(root / "data" / "look.json", json.dumps(values).encode(), mode=0o600)


def _kept(root: Path, stamp: str) -> tuple[dict[str, Any], tuple[int, ...], DataFingerprint] | None:
    try:
        values = json.loads((root / "data" / "look.json").read_bytes())
        if (values["format"], values["stamp"]) != (_FORMAT, stamp):
            return None
        fingerprint = DataFingerprint.from_bytes((root / "data" / "look.npz").read_bytes())
        report = dict(values["report"])
        return (report, tuple(values["dropped"]), fingerprint) if report["fingerprint"] == fingerprint.value else None
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def stamp_of(config: AgentConfig) -> str | None:
    """Changes with the settings and with the path, size or time of change of any file; None where there is no file."""
    path = config.data.path
    if path is None and config.data.adapter != "shapes":
        return None
    settings = [config.kind.value, config.data.model_dump(mode="json"), version("fedafd"), PIL.__version__]
    whole = hashlib.sha256(json.dumps([REPORT_VERSION, *settings]).encode())
    for name, size, changed in sorted({file for root in _roots(config) for file in _files(root)}):
        whole.update(f"{size} {changed} {len(name)} ".encode() + os.fsencode(name))
    return whole.hexdigest()


def _roots(config: AgentConfig) -> Iterator[Path]:
    """Where the data's files are: below the path, and where an option leads out of it."""
    path = config.data.path
    if path is None:
        return
    yield path
    named = (path / value for value in config.data.options.values() if isinstance(value, str) and "\0" not in value)
    yield from (root for root in named if not root.is_relative_to(path) or ".." in root.parts)


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    """Path, length and time of change of each file; -1 for a link to nothing."""
    if path.is_file():
        yield _file(path)
    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        yield from (_file(Path(folder, name)) for name in files)


def _file(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns
