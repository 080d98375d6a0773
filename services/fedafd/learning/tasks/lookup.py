"""Tasks by name: built in, or an entry point of the group `fedafd.tasks`.

An entry point is a callable that takes the options of the configuration and returns a LabelTask or a PairTask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedafd.domain.config import TaskConfig, usual_task
from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.tasks.base import LabelTask, PairTask, Task
from fedafd.learning.tasks.classification import Classification
from fedafd.learning.tasks.multi_label import MultiLabel
from fedafd.learning.tasks.retrieval import Retrieval

__all__ = ["find_task", "task_names", "usual_task_of"]

GROUP = "fedafd.tasks"
_BUILT_IN: Mapping[str, Callable[[], Task]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "retrieval": Retrieval,
}
_LABELS = ("several_labels", "make_head", "loss", "head_loss", "losses", "score", "pool", "fit_pool", "probabilities")
_PAIRS = ("make_contrast", "loss", "losses", "score")


def task_names() -> list[str]:
    """Tasks that are built in or installed."""
    return sorted({*_BUILT_IN, *_installed()})


def find_task(config: TaskConfig, kind: ClientKind) -> Any:
    """The task, a LabelTask or, for pairs, a PairTask.

    Raises ConfigurationError for one that is not known, does not serve the kind, or does not take its options.
    """
    task = _build_task(config)
    needed = _PAIRS if kind is ClientKind.PAIR else _LABELS
    missing = [name for name in ("kinds", "title", "metric") if not hasattr(task, name)]
    if not missing and kind not in task.kinds:
        serves = ", ".join(sorted(served.value for served in task.kinds)) or "none"
        raise ConfigurationError(f"task.name: {config.name} serves clients of kind {serves}, not {kind.value}")
    missing += [name for name in needed if not hasattr(task, name)]
    if missing:
        raise ConfigurationError(
            f"task.name: {config.name} is no task: it has no {', '.join(missing)} (fedafd.learning.tasks.base)"
        )
    return task


def usual_task_of(kind: ClientKind) -> LabelTask | PairTask:
    """The task of a client whose configuration names none."""
    task: LabelTask | PairTask = find_task(usual_task(kind), kind)
    return task


def _build_task(config: TaskConfig) -> Any:
    if config.name in _BUILT_IN:
        if config.options:
            raise ConfigurationError(f"task.options.{next(iter(config.options))}: {config.name} has no options")
        return _BUILT_IN[config.name]()
    point = _installed().get(config.name)
    if point is None:
        raise ConfigurationError(f"task.name: {config.name!r} is not known; installed: {', '.join(task_names())}")
    try:
        return point.load()(dict(config.options))
    except FedafdError:
        raise
    except Exception as error:  # of a task that somebody else wrote
        raise ConfigurationError(
            f"task.name: {config.name} (entry point {point.value}) cannot be made with its options:"
            f" {type(error).__name__}: {error}"
        ) from error


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """Looked up once in a process, because it reads the files of every package."""
    return {point.name: point for point in entry_points(group=GROUP)}
