"""The demo's output folder: claimed by one demo at a time, never somebody else's files, results written whole.

It is closed to other accounts: with real data, the sites' models, texts and logs lie there.

<output>/results.json            what was measured
<output>/models/                 the global and the personalized models
<output>/work/                   logs, database, object store, agents' state
<output>/.demo.json, .demo.lock  marks of ours
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fedafd.domain.claims import claim
from fedafd.domain.errors import ConfigurationError, ConflictError, StorageFullError
from fedafd.domain.own_folders import make_own
from fedafd.domain.whole_files import write_whole

__all__ = ["DemoOutput"]

_NEEDED_BYTES = 400 * 2**20
_OURS = frozenset({"results.json", "models", "work", ".demo.json", ".demo.lock"})


class DemoOutput:
    """Claims `root` for this run. Raises ConflictError or StorageFullError saying what to do."""

    def __init__(self, root: Path, *, force: bool) -> None:
        self.root = root.resolve()
        self.results = self.root / "results.json"
        self.models = self.root / "models"
        self.work = self.root / "work"
        self.logs = self.work / "logs"
        self._claim(force)

    def finish(self, results: dict[str, Any]) -> None:
        """Write results.json whole and mark the run as finished."""
        write_whole(self.results, json.dumps(results, indent=2) + "\n")
        self._mark("finished")

    def release(self) -> None:
        """Let another demo use the folder."""
        self._lock.release()

    def _claim(self, force: bool) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConflictError(f"--output {self.root}: cannot be used: {error.strerror}; choose another") from error
        strangers = sorted(path.name for path in self.root.iterdir() if path.name not in _OURS)
        if strangers:
            raise ConflictError(
                f"--output {self.root}: holds files of others ({', '.join(strangers[:3])}); choose another folder"
            )
        try:
            make_own(self.root)
        except ConfigurationError as error:
            raise ConflictError(f"--output {error}") from error
        taken = f"--output {self.root}: another demo is running here; wait for it or choose another folder"
        self._lock = claim(self.root / ".demo.lock", taken)
        try:
            if self._state() == "running" and not force:
                raise ConflictError(
                    f"--output {self.root}: an earlier demo was interrupted here (its logs are in {self.logs});"
                    " --force removes what it left, or choose another folder"
                )
            self._check_space()
            self._empty()
            self._mark("running")
        except BaseException:
            self._lock.release()
            raise

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < _NEEDED_BYTES:
            raise StorageFullError(
                f"--output {self.root}: {free / 2**20:.0f} MiB free, {_NEEDED_BYTES / 2**20:.0f} MiB needed;"
                " free some space or choose a folder on another disk"
            )

    def _empty(self) -> None:
        for folder in (self.models, self.work):
            shutil.rmtree(folder, ignore_errors=True)
        self.results.unlink(missing_ok=True)
        try:
            self.logs.mkdir(parents=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(f"--output {self.root}: the disk is full") from error
            raise

    def _state(self) -> str | None:
        try:
            state: str = json.loads((self.root / ".demo.json").read_text(encoding="utf-8"))["state"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return state

    def _mark(self, state: str) -> None:
        (self.root / ".demo.json").write_text(json.dumps({"state": state, "pid": os.getpid()}), encoding="utf-8")
