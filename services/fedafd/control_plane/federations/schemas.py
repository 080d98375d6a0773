"""JSON of federations."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from fedafd.domain.config import FederationConfig
from fedafd.persistence.models import FederationRow

__all__ = ["DeletedFederation", "Federation"]


class Federation(BaseModel):
    """A federation with its whole configuration, defaults filled in."""

    name: str
    config: FederationConfig
    config_version: int = Field(description="Counts changes of the configuration, from 1.")
    public_set_sha256: str | None = Field(description="Hash of the public set's manifest; null before one was pushed.")
    current_version: int | None = Field(description="The global model version that the next round starts from.")
    follows: str | None = Field(description="Of a region: the upper federation, which its rounds come from.")
    created_at: datetime

    @classmethod
    def of(cls, row: FederationRow) -> Federation:
        """From its row."""
        return cls(
            name=row.id,
            config=FederationConfig.model_validate(row.config),
            config_version=row.config_version,
            public_set_sha256=row.public_set_sha256,
            current_version=row.current_version,
            follows=row.follows,
            created_at=row.created_at,
        )


class DeletedFederation(BaseModel):
    """What went with a federation, or would go."""

    name: str
    deleted: bool = Field(description="False where it was only asked what would go.")
    clients: int
    rounds: int
    versions: int = Field(description="Global model versions.")
    personalized_models: int
    size_bytes: int = Field(description="Of the objects that an aggregator removes after it.")
