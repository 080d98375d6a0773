"""Tracker `tensorboard`: event files below `path`, one folder a run.

Events are written at once, not by the library's thread: one that dies on a full disk leaves a queue that blocks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedafd.domain.errors import ConfigurationError
from fedafd.tracking.run import TrackedRun, check_options

__all__ = ["TensorBoard"]

_SUFFIX = ".fedafd"


class TensorBoard:
    """Event files of one run. What an earlier start of the run left there is replaced, so that no point is twice."""

    def __init__(self, run: TrackedRun, options: Mapping[str, Any]) -> None:
        """Raises ConfigurationError for unknown options or a missing library, OSError for a folder that cannot be."""
        check_options("tensorboard", options, {"path"})
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
            from tensorboardX.summary import scalar, text
        except ImportError:
            raise ConfigurationError("needs tensorboardX: pip install 'fedafd[tensorboard]'") from None
        folder = run.output / Path(options.get("path", "tensorboard")) / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            path.unlink()
        self._event, self._scalar = event_pb2.Event, scalar
        self._writer = EventsWriter(str(folder / "events"), _SUFFIX)
        for name, value in run.tags.items():
            self._write(0, text(name, value))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars at the round's number."""
        for name, value in metrics.items():
            self._write(step, self._scalar(name, value))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int, summary: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
