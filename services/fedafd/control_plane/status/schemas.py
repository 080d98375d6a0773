"""JSON of the status."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field

from fedafd.domain.durations import duration_words

__all__ = ["Cause", "Finding", "Level", "Status"]


class Level(StrEnum):
    """How bad it is."""

    TROUBLE = "trouble"
    """Nothing goes on until somebody does something."""
    WAITING = "waiting"
    """Somebody has to do the next step, or it takes its time."""
    FINE = "fine"


class Cause(StrEnum):
    """What it is that is waited for."""

    STORE = "store"
    REDIS = "redis"
    NO_AGGREGATOR = "no-aggregator"
    NO_DISTILLER = "no-distiller"
    NOT_BEGUN = "not-begun"
    DISTILLER_SILENT = "distiller-silent"
    DISTILLER_BUSY = "distiller-busy"
    STAGE_FAILED = "stage-failed"
    STAGE = "stage"
    DRAINED = "drained"
    QUORUM_SHORT = "quorum-short"
    NO_SITE_ONLINE = "no-site-online"
    SITES_AWAY = "sites-away"
    SITES_LOST = "sites-lost"
    SITES = "sites"
    STARTING = "starting"
    NO_FEDERATION = "no-federation"
    NO_PUBLIC_SET = "no-public-set"
    NO_SITE = "no-site"
    ROUND_FAILED = "round-failed"
    NO_QUERY_WORKER = "no-query-worker"
    CLOCK = "clock"
    IDLE = "idle"


class Finding(BaseModel):
    """Something that is waited for, or that is well."""

    level: Level
    cause: Cause
    federation: str | None = Field(description="Null for what concerns the whole service.")
    round: int | None
    words: str = Field(description="What waits for what.")
    since: datetime | None = Field(description="Since when.")
    remedy: str = Field(description="What to do; empty where there is nothing to do.")

    def sentence(self, now: datetime) -> str:
        """All of it as one line: what waits for what, for how long, and what to do."""
        waited = f" (for {duration_words((now - self.since).total_seconds())})" if self.since else ""
        return f"{self.words}{waited}" + (f"; {self.remedy}" if self.remedy else "")


class Status(BaseModel):
    """How the service and its federations are, worst first."""

    level: Level = Field(description="The worst of the findings.")
    at: datetime
    summary: str = Field(description="The first finding as one line.")
    findings: list[Finding]
