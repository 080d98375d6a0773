"""JSON of API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedafd.control_plane.names import Name
from fedafd.domain.kinds import Role
from fedafd.persistence.models import ApiKeyRow, utc_now

__all__ = ["ApiKey", "CreateApiKey", "CreatedApiKey", "RotateApiKey"]


_MOST_FEDERATIONS = 100
_MOST_HOURS = 30 * 24


class CreateApiKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    role: Role
    expires_in_days: int | None = Field(None, ge=1, le=3650, description="Null: until it is revoked.")
    federations: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=_MOST_FEDERATIONS,
        description="Those that the key opens; it learns of no other. Null: all, and what concerns none.",
    )


class RotateApiKey(BaseModel):
    """How long the new secret is good, and the old one beside it."""

    model_config = ConfigDict(extra="forbid")

    expires_in_days: int | None = Field(None, ge=1, le=3650, description="Null: until it is revoked.")
    overlap_hours: float = Field(
        0.0,
        ge=0,
        le=_MOST_HOURS,
        description="How long the old secret still works, but never past the time at which it would have expired.",
    )


class ApiKey(BaseModel):
    """A key, without its secret."""

    name: str
    role: Role
    federations: list[str] | None = Field(description="Those that it opens; null: all.")
    active: bool = Field(description="Neither revoked nor expired.")
    created_at: datetime
    created_by: str | None = Field(description="Null for the first admin's key, which the settings give.")
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute; of the present secret.")
    revoked_at: datetime | None
    previous_secret_until: datetime | None = Field(
        description="Until then the secret before the last rotation is good, too; null: it is not."
    )
    previous_secret_used_at: datetime | None = Field(description="When that one was last used.")

    @classmethod
    def of(cls, row: ApiKeyRow) -> ApiKey:
        """From its row."""
        return cls(**_fields(row))


class CreatedApiKey(ApiKey):
    """A key with its secret."""

    secret: str = Field(description="The key itself; shown here only.")

    @classmethod
    def created(cls, row: ApiKeyRow, secret: str) -> CreatedApiKey:
        """From its row and secret."""
        return cls(**_fields(row), secret=secret)


_OF_THE_ROW = ApiKey.model_fields.keys() - {"active", "previous_secret_until", "previous_secret_used_at"}


def _fields(row: ApiKeyRow) -> dict[str, Any]:
    now = utc_now()
    active = row.revoked_at is None and (row.expires_at is None or row.expires_at > now)
    overlaps = active and row.previous_until is not None and row.previous_until > now
    return {name: getattr(row, name) for name in _OF_THE_ROW} | {
        "active": active,
        "previous_secret_until": row.previous_until if overlaps else None,
        "previous_secret_used_at": row.previous_used_at if overlaps else None,
    }
