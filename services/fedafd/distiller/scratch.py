"""The folder of a distiller without `cache_dir`: removed at its end, or by the next distiller if it was killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from fedafd.domain.claims import claimed
from fedafd.domain.errors import ConflictError
from fedafd.telemetry.logging import get_logger

__all__ = ["cache_folder", "scratch_folder"]

_PREFIX = "fedafd-distiller-"
_LOCK = "distiller.lock"
_log = get_logger(__name__)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder for this process among the system's temporary ones; what killed distillers left there is removed."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with claimed(folder / _LOCK, f"{folder}: another distiller uses it"):
            yield folder


@contextmanager
def cache_folder(configured: Path | None) -> Iterator[Path]:
    """The folder that the settings name, made if need be; one that ends with the process where they name none."""
    with nullcontext(configured) if configured is not None else scratch_folder() as folder:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def _sweep(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        # Another user's folder is not ours to open; one that a distiller holds is not ours to remove.
        with suppress(ConflictError, OSError), claimed(lock, ""):
            shutil.rmtree(lock.parent)
            _log.info("distiller.leftover_removed", folder=str(lock.parent))
