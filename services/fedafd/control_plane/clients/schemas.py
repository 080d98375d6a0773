"""JSON of clients."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedafd.control_plane.names import Name
from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.domain.kinds import ParticipantKind
from fedafd.messaging.presence import PRESENCE_SECONDS, Presence
from fedafd.persistence.models import ClientRow, utc_now

__all__ = [
    "Client",
    "ClientData",
    "ClientState",
    "ExcludeClient",
    "ForgottenData",
    "InviteAgain",
    "InviteClient",
    "InvitedClient",
]


MaxClients = Annotated[int, Field(ge=1, le=1_000_000)]


class ClientState(StrEnum):
    """Where a client is on its way in or out."""

    INVITED = "invited"
    ENROLLED = "enrolled"
    REVOKED = "revoked"


class InviteClient(BaseModel):
    """A site, or a region, to invite."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    kind: ParticipantKind
    max_clients: MaxClients | None = Field(None, description="Of a region: how many clients it may stand for.")

    @model_validator(mode="after")
    def _bounds_regions(self) -> InviteClient:
        if (self.kind is ParticipantKind.REGION) != (self.max_clients is not None):
            raise ValueError("max_clients is needed for a region, and means nothing for a client")
        return self


class InviteAgain(BaseModel):
    """What changes with another invitation."""

    model_config = ConfigDict(extra="forbid")

    max_clients: MaxClients | None = Field(None, description="Of a region: from now on; null leaves it as it is.")


class ExcludeClient(BaseModel):
    """From which round on a client is left out, and why."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, description="For the audit log, and for whoever looks at it.")
    from_round: int | None = Field(
        None, ge=1, le=MAX_INTEGER, description="Its number; null: the first round that has invited nobody yet."
    )


class Client(BaseModel):
    """A client, and whether its agent is there."""

    name: str
    kind: ParticipantKind
    max_clients: int | None = Field(description="Of a region: how many clients it may stand for.")
    state: ClientState
    online: bool = Field(description=f"Whether its agent called in the last {PRESENCE_SECONDS} s.")
    activity: str | None = Field(description="What the agent was doing; null when it is away or nobody noted it.")
    last_seen_at: datetime | None
    agent_version: str | None
    other_agent_refused_at: datetime | None = Field(
        description="When a second agent with its credential was last refused: its state folder was copied."
    )
    invited_at: datetime = Field(description="When it was first invited.")
    enrolled_at: datetime | None
    revoked_at: datetime | None
    excluded_from_round: int | None = Field(description="The first round that it is left out of; null if of none.")
    exclusion_reason: str | None
    token_expires_at: datetime | None = Field(description="Until when an unused enrolment token is good.")

    @classmethod
    def of(cls, row: ClientRow, presence: Presence | None) -> Client:
        """From its row, and its presence in Redis where there is one."""
        return cls(**_fields(row, presence))


class ForgottenData(BaseModel):
    """The receipt of what was deleted; the audit log has it, too."""

    objects: int = Field(description="Objects of the store.")
    size_bytes: int
    representations: int
    weights: int
    folds: int = Field(default=0, description="What the server made of its representations alone.")
    personalized_models: int
    rounds_with_metrics: int = Field(description="Rounds of which metrics or a number of samples were kept.")
    sha256: list[str] = Field(description="Of the objects, at most 1,000 of them, sorted.")
    sha256_of_all: str = Field(description="SHA-256 of all those hashes, sorted, one a line.")


class ClientData(BaseModel):
    """Where the deletion of what a client sent stands."""

    client: str
    requested_at: datetime | None = Field(description="Since when it is to be done; null where nothing is to be done.")
    waits_for_round: int | None = Field(description="The running round that has the client in it; null: none.")
    forgotten_at: datetime | None = Field(description="When it was done last; null: never.")
    receipt: ForgottenData | None = Field(description="Of the last time.")

    @classmethod
    def of(cls, row: ClientRow, running: int | None) -> ClientData:
        """From its row, and the running round that has it."""
        summary = row.forgotten if row.forgotten_at is not None else None
        return cls(
            client=row.name,
            requested_at=row.forget_requested_at,
            waits_for_round=running if row.forget_requested_at is not None else None,
            forgotten_at=row.forgotten_at,
            receipt=None if summary is None or "keys" in summary else ForgottenData(**summary),
        )


class InvitedClient(Client):
    """A client with its enrolment token."""

    enrolment_token: str = Field(description="Good for one enrolment; shown here only.")

    @classmethod
    def invited(cls, row: ClientRow, token: str) -> InvitedClient:
        """From its row and token."""
        return cls(**_fields(row, None), enrolment_token=token)


def _fields(row: ClientRow, presence: Presence | None) -> dict[str, Any]:
    seen = max((at for at in (row.last_seen_at, presence.at if presence else None) if at), default=None)
    state = ClientState.ENROLLED if row.enrolled_at else ClientState.INVITED
    online = seen is not None and utc_now() - seen < timedelta(seconds=PRESENCE_SECONDS)
    return {
        "name": row.name,
        "kind": ParticipantKind(row.kind),
        "max_clients": row.max_clients,
        "state": ClientState.REVOKED if row.revoked_at else state,
        "online": online and row.revoked_at is None and row.enrolled_at is not None,
        "activity": (presence.activity or None) if presence else None,
        "last_seen_at": seen,
        "agent_version": row.agent_version,
        "other_agent_refused_at": row.other_agent_refused_at,
        "invited_at": row.created_at,
        "enrolled_at": row.enrolled_at,
        "revoked_at": row.revoked_at,
        "excluded_from_round": row.excluded_from_round,
        "exclusion_reason": row.exclusion_reason,
        "token_expires_at": None if row.enrolled_at or row.revoked_at else row.token_expires_at,
    }
