"""The tables: the truth about federations, clients, rounds, stages, artifacts and versions.

Times are UTC and timezone-aware. Ids are 32 hexadecimal characters unless said otherwise. Everything in Redis can
be rebuilt from here, and everything in the object store is named from here.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.kinds import ParticipantKind, StageKind
from fedafd.domain.states import ParticipationState, RoundState, StageState
from fedafd.persistence.clock import utc_now
from fedafd.telemetry.tracing import current_traceparent

__all__ = [
    "ApiKeyRow",
    "ArtifactRow",
    "Base",
    "ClientRow",
    "DrainRow",
    "EventRow",
    "FederationRow",
    "IdempotencyRow",
    "LeaseRow",
    "ModelFileRow",
    "ModelVersionRow",
    "OutboxRow",
    "ParticipationRow",
    "PersonalizedModelRow",
    "RoundRow",
    "StageRow",
    "UploadRow",
    "UtcDateTime",
    "new_id",
    "utc_now",
]

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id() -> str:
    """A fresh random id."""
    return uuid.uuid4().hex


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time, stored as UTC; SQLite, which drops the zone, gets it back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(state.value) for state in states)})", name=column)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        dict[str, ArtifactRef]: JSON(),
        dict[str, float]: JSON(),
        list[str]: JSON(),
    }


class FederationRow(Base):
    """A federation. Its id is the name that the operator chose, a slug."""

    __tablename__ = "federations"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    config: Mapped[dict[str, Any]]
    """FederationConfig as JSON."""
    config_version: Mapped[int] = mapped_column(default=1, server_default="1")
    """Counts changes of the configuration, from 1."""
    public_set_sha256: Mapped[str | None] = mapped_column(String(64))
    """Hash of the public set's manifest; None until one was pushed."""
    public_set_summary: Mapped[dict[str, Any] | None]
    current_version: Mapped[int | None] = mapped_column(Integer)
    """The promoted global model version, where the next round starts; None before the first round."""
    follows: Mapped[str | None] = mapped_column(String(63))
    """Of a region: the upper federation, which its rounds come from; None for one that trains a global model itself."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ClientRow(Base):
    """A client: invited, enrolled, perhaps revoked."""

    __tablename__ = "clients"
    __table_args__ = (UniqueConstraint("federation_id", "name"), _one_of("kind", ParticipantKind))

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"), index=True)
    name: Mapped[str] = mapped_column(String(63))
    kind: Mapped[str] = mapped_column(String(8))
    max_clients: Mapped[int | None]
    """Of a region: how many clients it may stand for; None for a client."""
    token_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """SHA-256 of the one-time enrolment token; kept after use, so that a second use is recognised."""
    token_expires_at: Mapped[datetime | None]
    credential_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """SHA-256 of the credential; None until enrolled."""
    enrolled_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    agent_version: Mapped[str | None] = mapped_column(String(64))
    session: Mapped[str | None] = mapped_column(String(16))
    """Names the process of the client's live agent, in hexadecimal; None after it ended in good order."""
    session_until: Mapped[datetime | None]
    """Until when that agent counts as alive without another call."""
    other_agent_refused_at: Mapped[datetime | None]
    """When another agent was last refused during that session."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class RoundRow(Base):
    """A communication round."""

    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("federation_id", "number"), _one_of("state", RoundState))

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
    cohort: Mapped[list[str] | None] = mapped_column(JSON)
    """Client ids invited, in the fixed order (by name) that shapes the merge tree; set when collecting begins."""
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
    __table_args__ = (UniqueConstraint("round_id", "client_id"), _one_of("state", ParticipationState))

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
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    activity: Mapped[str | None] = mapped_column(String(200))
    last_progress_at: Mapped[datetime] = mapped_column(default=utc_now)
    receipt: Mapped[str | None] = mapped_column(String(64))
    settled_at: Mapped[datetime | None]
    metrics: Mapped[dict[str, float] | None]
    num_private_samples: Mapped[int | None]
    bytes_up: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_down: Mapped[int] = mapped_column(BigInteger, default=0)
    representations_sha256: Mapped[str | None] = mapped_column(String(64))
    region_clients: Mapped[dict[str, int] | None] = mapped_column(JSON)
    """Of a region's delivery: `total` clients, and those that hold each modality; None for a client's."""


class StageRow(Base):
    """A unit of distiller work. Its fencing token is `attempt`."""

    __tablename__ = "stages"
    __table_args__ = (
        UniqueConstraint("round_id", "kind", "modality", "level", "position"),
        _one_of("kind", StageKind),
        _one_of("state", StageState),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    modality: Mapped[str] = mapped_column(String(8), default="")
    """Of a fold or merge; empty otherwise."""
    level: Mapped[int] = mapped_column(default=0)
    """Height in the merge tree for a merge; for a preparing stage how often it was done before; 0 otherwise."""
    position: Mapped[int] = mapped_column(default=0)
    """Cohort position of a fold; index within the level for a merge; 0 otherwise."""
    state: Mapped[str] = mapped_column(String(16), default=StageState.PENDING.value)
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts that failed or went silent."""
    worker: Mapped[str | None] = mapped_column(String(120))
    progress: Mapped[float] = mapped_column(Float, default=0.0)
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


class ArtifactRow(Base):
    """An immutable stored blob."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("federation_id", "key"), Index("ix_artifacts_sha256", "sha256"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    purpose: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(512))
    round_id: Mapped[str | None] = mapped_column(ForeignKey("rounds.id"), index=True)
    client_id: Mapped[str | None] = mapped_column(ForeignKey("clients.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class UploadRow(Base):
    """A blob on its way up: its manifest and which chunks have arrived (objects `<key_prefix><index>`)."""

    __tablename__ = "uploads"
    __table_args__ = (UniqueConstraint("round_id", "client_id", "sha256", "purpose"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), index=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.id"))
    purpose: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    chunk_size_bytes: Mapped[int]
    chunk_sha256: Mapped[list[str]] = mapped_column(JSON)
    completed: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersionRow(Base):
    """A published global model version: one per completed round."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("federation_id", "version"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"))
    version: Mapped[int]
    """Number of the round that made it."""
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), unique=True)
    parent_version: Mapped[int | None]
    state_key: Mapped[str] = mapped_column(String(512))
    """Object key of the server state (weights and optimizer) that the next round goes on from."""
    state_sha256: Mapped[str] = mapped_column(String(64))
    metrics: Mapped[dict[str, float]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    promoted_at: Mapped[datetime | None]
    """When somebody last chose it as the current one."""
    state_removed_at: Mapped[datetime | None]
    """When retention let its server state go: no round can start from it any more."""
    files_removed_at: Mapped[datetime | None]
    """When retention let its folder go: it cannot be pulled any more."""


class PersonalizedModelRow(Base):
    """A personalized model version that a site shared: one per client and round."""

    __tablename__ = "personalized_models"
    __table_args__ = (UniqueConstraint("client_id", "version"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.id"), index=True)
    version: Mapped[int]
    """Number of the round that made it."""
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    metrics: Mapped[dict[str, float]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    files_removed_at: Mapped[datetime | None]
    """When retention let its folder go."""


class ModelFileRow(Base):
    """One file of a global or personalized model folder."""

    __tablename__ = "model_files"
    __table_args__ = (
        UniqueConstraint("model_version_id", "path"),
        UniqueConstraint("personalized_model_id", "path"),
        CheckConstraint("(model_version_id IS NULL) <> (personalized_model_id IS NULL)", name="one_owner"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    model_version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    personalized_model_id: Mapped[str | None] = mapped_column(ForeignKey("personalized_models.id"))
    path: Mapped[str] = mapped_column(String(255))
    """Relative to the folder, with forward slashes."""
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    key: Mapped[str] = mapped_column(String(512))


class EventRow(Base):
    """The audit log: what happened, when, to what, by whom. Append-only; ids grow in the order of the commits."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_federation_id_id", "federation_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    federation_id: Mapped[str | None] = mapped_column(ForeignKey("federations.id"))
    """None for what concerns no federation, such as API keys."""
    kind: Mapped[str] = mapped_column(String(64))
    """Dotted, past tense, such as `round.state_changed` or `client.enrolled`."""
    actor: Mapped[str] = mapped_column(String(128))
    """`api-key:<name>`, `client:<name>`, `coordinator`, `distiller:<worker>`."""
    data: Mapped[dict[str, Any]]


class OutboxRow(Base):
    """A message to Celery, written in the transaction that decided it and sent after."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    stage_id: Mapped[str] = mapped_column(ForeignKey("stages.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """StageKind; names the Celery task `fedafd.<kind>`."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    sent_at: Mapped[datetime | None] = mapped_column(index=True)


class LeaseRow(Base):
    """Who may do a singleton's work, such as the coordinator's. The token grows with every new holder."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(120))
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


class DrainRow(Base):
    """The service is drained while the only row is there: no queued round starts."""

    __tablename__ = "drains"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    actor: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str | None] = mapped_column(Text)
    since: Mapped[datetime] = mapped_column(default=utc_now)


class ApiKeyRow(Base):
    """A key of the REST API."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint("role IN ('admin', 'operator', 'viewer')", name="role"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str | None] = mapped_column(String(128))
    """The actor who made it; None for the first admin's key, which the settings give."""
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the minute."""
    revoked_at: Mapped[datetime | None]


class IdempotencyRow(Base):
    """The answer to a POST that carried an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    """`<api key id>:<Idempotency-Key>`."""
    request_hash: Mapped[str] = mapped_column(String(64))
    """SHA-256 of method, path and body."""
    status: Mapped[int]
    location: Mapped[str | None] = mapped_column(String(512))
    body: Mapped[bytes] = mapped_column(LargeBinary)
    """Encrypted under the caller's own API key, because it may hold a secret that is shown once."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
