"""Federations and their clients."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.clock import utc_now
from fedafd.persistence.models.base import Base, new_id, one_of

__all__ = ["ClientRow", "FederationRow"]


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
    __table_args__ = (UniqueConstraint("federation_id", "name"), one_of("kind", ParticipantKind))

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
    key_sha256: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the public key that the credential is bound to; None for an agent from before there were keys."""
    certificate_until: Mapped[datetime | None]
    """When the last certificate of that key ends."""
    enrolled_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    excluded_from_round: Mapped[int | None]
    """The first round that it is not invited to, by an operator's choice; None for a client that is invited."""
    exclusion_reason: Mapped[str | None] = mapped_column(Text)
    last_seen_at: Mapped[datetime | None]
    agent_version: Mapped[str | None] = mapped_column(String(64))
    session: Mapped[str | None] = mapped_column(String(16))
    """Names the process of the client's live agent, in hexadecimal; None after it ended in good order."""
    session_until: Mapped[datetime | None]
    """Until when that agent counts as alive without another call."""
    other_agent_refused_at: Mapped[datetime | None]
    """When another agent was last refused during that session."""
    forget_requested_at: Mapped[datetime | None]
    """When somebody asked to delete what it sent; None once that is done."""
    forgotten_at: Mapped[datetime | None]
    """When that was done last."""
    forgotten: Mapped[dict[str, Any] | None]
    """The receipt of that; before it is done with the `keys` of the objects that have to go."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
