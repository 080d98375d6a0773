"""JSON of clients."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedafd.control_plane.names import Name
from fedafd.domain.kinds import ParticipantKind
from fedafd.messaging.presence import PRESENCE_SECONDS, Presence
from fedafd.persistence.models import ClientRow, utc_now

__all__ = ["Client", "ClientState", "InviteAgain", "InviteClient", "InvitedClient"]


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
    token_expires_at: datetime | None = Field(description="Until when an unused enrolment token is good.")

    @classmethod
    def of(cls, row: ClientRow, presence: Presence | None) -> Client:
        """From its row, and its presence in Redis where there is one."""
        return cls(**_fields(row, presence))


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
        "token_expires_at": None if row.enrolled_at or row.revoked_at else row.token_expires_at,
    }
