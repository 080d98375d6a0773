"""Rounds, the clients' parts in them, the distillers' stages, and the messages that announce stages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import ParticipationState, RoundState, StageState
from fedafd.persistence.clock import utc_now
from fedafd.persistence.models.base import Base, Contributions, Share, new_id, one_of
from fedafd.telemetry.tracing import current_traceparent

__all__ = ["OutboxRow", "ParticipationRow", "RoundRow", "StageRow"]


class RoundRow(Base):
    """A communication round."""

    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("federation_id", "number"), one_of("state", RoundState))

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"), index=True)
    number: Mapped[int]
    """From 1, gapless per federation."""
    state: Mapped[str] = mapped_column(String(16), default=RoundState.QUEUED.value, index=True)
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it failed or was cancelled, for the operator."""
    config: Mapped[dict[str, Any]]
    """FederationConfig as JSON, frozen when the round was queued."""
    public_set_sha256: Mapped[str] = mapped_column(String(64))
    base_version: Mapped[int | None]
    """Global model version that the round starts from; set when preparing begins."""
    num_online: Mapped[int | None]
    """Sites that were online when the cohort was drawn from them; None where all enrolled ones were invited."""
    fencing_token: Mapped[int] = mapped_column(BigInteger, default=0)
    """Token of the lease under which the row was last moved; an update with a lower one is refused."""
    metrics: Mapped[dict[str, float] | None]
    """Server metrics of the finished round."""
    deadline_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    state_changed_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]
    traceparent: Mapped[str | None] = mapped_column(String(64), default=current_traceparent)
    """W3C trace context of the request that queued it; null while tracing is off."""
    swept_at: Mapped[datetime | None]
    """When what it left behind was removed, after its end."""
    upstream_round_id: Mapped[str | None] = mapped_column(String(32))
    """Of a region: the round of the upper federation that it is a part of."""
    upstream_receipt: Mapped[str | None] = mapped_column(String(64))
    """What the upper federation gave for the merged states; None until it took them."""


class ParticipationRow(Base):
    """One client's part in one round."""

    __tablename__ = "participations"
    __table_args__ = (UniqueConstraint("round_id", "client_id"), one_of("state", ParticipationState))

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), index=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.id"), index=True)
    position: Mapped[int]
    """Index in the round's cohort, from 0."""
    state: Mapped[str] = mapped_column(String(16), default=ParticipationState.INVITED.value)
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it was dropped or rejected, in our words."""
    reason_code: Mapped[str | None] = mapped_column(String(32))
    """A LeaveReason, where it was dropped."""
    progress: Mapped[float] = mapped_column(Share, default=0.0)
    activity: Mapped[str | None] = mapped_column(String(200))
    last_progress_at: Mapped[datetime] = mapped_column(default=utc_now)
    """When its client last made progress (fedafd.persistence.advances), or was invited."""
    advanced_at: Mapped[datetime | None]
    """When its work last went on, or its bytes: without what is excused. None before, and in rows of older versions."""
    work_done: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """What its agent counted of its work, at most; 0 for one that does not count."""
    work_of: Mapped[str | None] = mapped_column(String(16))
    """The session that counted."""
    work_begun: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many sessions began to count."""
    farthest: Mapped[float] = mapped_column(Share, default=0.0, server_default="0")
    """The largest share that it told of, of an agent that does not count."""
    trains_since: Mapped[datetime | None]
    """When it had downloaded and told of its first step; None before, and in rows of versions that did not note it."""
    sends_since: Mapped[datetime | None]
    """When the first of what it uploads arrived."""
    receipt: Mapped[str | None] = mapped_column(String(64))
    settled_at: Mapped[datetime | None]
    metrics: Mapped[dict[str, float] | None]
    num_private_samples: Mapped[int | None]
    bytes_up: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_down: Mapped[int] = mapped_column(BigInteger, default=0)
    representations_sha256: Mapped[str | None] = mapped_column(String(64))
    region_clients: Mapped[dict[str, int] | None] = mapped_column(JSON)
    """Of a region's delivery: `total` clients, and those that hold each modality; None for a client's."""
    contributions: Mapped[dict[str, Any] | None] = mapped_column(Contributions)
    """By modality what it counts for in the ensemble, a Contribution as JSON; None until that is known."""


class StageRow(Base):
    """A unit of distiller work. Its fencing token is `attempt`."""

    __tablename__ = "stages"
    __table_args__ = (
        UniqueConstraint("round_id", "kind", "modality", "level", "position"),
        one_of("kind", StageKind),
        one_of("state", StageState),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    modality: Mapped[str] = mapped_column(String(8), default="")
    """Of a fold, weighing or merge; empty otherwise."""
    level: Mapped[int] = mapped_column(default=0)
    """Height in the merge tree for a merge; for a preparing stage how often it was done before; 0 otherwise."""
    position: Mapped[int] = mapped_column(default=0)
    """Cohort position of a fold; index within the level for a merge; 0 otherwise."""
    state: Mapped[str] = mapped_column(String(16), default=StageState.PENDING.value)
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts that failed or went silent."""
    worker: Mapped[str | None] = mapped_column(String(120))
    progress: Mapped[float] = mapped_column(Share, default=0.0)
    activity: Mapped[str | None] = mapped_column(String(200))
    last_progress_at: Mapped[datetime] = mapped_column(default=utc_now)
    """When it was announced, claimed, or made a step."""
    alive_at: Mapped[datetime] = mapped_column(default=utc_now, server_default="1970-01-01 00:00:00")
    """When the claiming distiller last renewed its lease, with or without a step."""
    inputs: Mapped[dict[str, ArtifactRef]]
    """Name -> {sha256, size_bytes, purpose, key}."""
    outputs: Mapped[dict[str, ArtifactRef] | None]
    metrics: Mapped[dict[str, float] | None]
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]


class OutboxRow(Base):
    """A message to Celery, written in the transaction that decided it and sent after."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    stage_id: Mapped[str] = mapped_column(ForeignKey("stages.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """StageKind; names the Celery task `fedafd.<kind>`."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    sent_at: Mapped[datetime | None] = mapped_column(index=True)
