"""JSON of API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedafd.control_plane.names import Name
from fedafd.domain.kinds import Role
from fedafd.persistence.models import ApiKeyRow, utc_now

__all__ = ["ApiKey", "CreateApiKey", "CreatedApiKey", "RotateApiKey"]


class CreateApiKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    role: Role
    expires_in_days: int | None = Field(None, ge=1, le=3650, description="Null: until it is revoked.")


class RotateApiKey(BaseModel):
    """How long the new secret is good."""

    model_config = ConfigDict(extra="forbid")

    expires_in_days: int | None = Field(None, ge=1, le=3650, description="Null: until it is revoked.")


class ApiKey(BaseModel):
    """A key, without its secret."""

    name: str
    role: Role
    active: bool = Field(description="Neither revoked nor expired.")
    created_at: datetime
    created_by: str | None = Field(description="Null for the first admin's key, which the settings give.")
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None

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


def _fields(row: ApiKeyRow) -> dict[str, Any]:
    expired = row.expires_at is not None and row.expires_at <= utc_now()
    given = {name: getattr(row, name) for name in ApiKey.model_fields if name != "active"}
    return given | {"active": row.revoked_at is None and not expired}
