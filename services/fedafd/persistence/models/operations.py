"""What operating the service needs: the audit log, the authority, leases, drains, API keys and repeated requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from fedafd.persistence.clock import utc_now
from fedafd.persistence.models.base import Base, new_id

__all__ = [
    "ApiKeyRow",
    "AuthorityRow",
    "DrainRow",
    "EndedLoginRow",
    "EventRow",
    "IdempotencyRow",
    "LeaseRow",
    "RemovalRow",
    "SessionSecretRow",
]


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
    address: Mapped[str | None] = mapped_column(String(64))
    """The address that the actor asked from; None for what a process does by itself, and before revision 0019."""
    data: Mapped[dict[str, Any]]
    hash: Mapped[str | None] = mapped_column(String(64))
    """Covers this entry and the hash of the one before (`domain.audit_chain`); None until the next write, where a
    program wrote that knows of no chain."""


class RemovalRow(Base):
    """A deleted federation whose objects are still to be removed."""

    __tablename__ = "removals"

    federation_id: Mapped[str] = mapped_column(String(63), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LeaseRow(Base):
    """Who may do a singleton's work, such as the coordinator's. The token grows with every new holder."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(120))
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


class AuthorityRow(Base):
    """The federation server's authority, which signs clients' certificates; the only row has the id 1."""

    __tablename__ = "authorities"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    certificate: Mapped[str] = mapped_column(Text)
    """PEM."""
    wrapped_key: Mapped[str | None] = mapped_column(Text)
    """PEM of its key, encrypted by a secret that is not in the database; None where the operator has it in a file."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


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
    """To the minute; of the present secret."""
    revoked_at: Mapped[datetime | None]
    federations: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """Names of those that it opens; None for all."""
    previous_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    """Of the secret before a rotation, which is good beside the present one for a while."""
    previous_until: Mapped[datetime | None]
    previous_used_at: Mapped[datetime | None]


class EndedLoginRow(Base):
    """A login to the dashboard that was ended while its cookie was still good."""

    __tablename__ = "ended_logins"

    nonce: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Of the login's cookie."""
    expires_at: Mapped[datetime] = mapped_column(index=True)
    """When the cookie is over by itself, and the row with it."""


class SessionSecretRow(Base):
    """What sessions of the dashboard are signed with beside the first admin's key; the only row has the id 1."""

    __tablename__ = "session_secrets"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    secret: Mapped[str] = mapped_column(String(64))


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
