"""What the clients of a kind learn: a task by name, with its options."""

from __future__ import annotations

from pydantic import Field, JsonValue

from fedafd.domain.config.base import Config
from fedafd.domain.kinds import ClientKind

__all__ = ["TaskConfig", "usual_task"]


class TaskConfig(Config):
    """A task: `classification`, `multi-label`, `retrieval`, or one of an installed package."""

    name: str = Field(
        description="`classification` (one class a sample), `multi-label` (several labels a sample, or none),"
        " `retrieval` (pairs), or one of an installed package (entry point group `fedafd.tasks`): docs/tasks.md."
    )
    options: dict[str, JsonValue] = Field(default_factory=dict, description="The task's own keys.")


def usual_task(kind: ClientKind) -> TaskConfig:
    """The task of a client whose configuration names none."""
    return TaskConfig(name="retrieval" if kind is ClientKind.PAIR else "classification")
