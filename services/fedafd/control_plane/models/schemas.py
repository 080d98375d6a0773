"""JSON of model versions and their files."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from fedafd.persistence.models import ModelFileRow, ModelVersionRow, PersonalizedModelRow

__all__ = [
    "DownloadTicket",
    "DownloadTickets",
    "ModelFile",
    "ModelVersion",
    "ModelVersionDetails",
    "PersonalizedModel",
    "PersonalizedModelDetails",
]


class ModelFile(BaseModel):
    """A file of a version's folder."""

    path: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, row: ModelFileRow) -> ModelFile:
        """From its row."""
        return cls(path=row.path, sha256=row.sha256, size_bytes=row.size_bytes)


class ModelVersion(BaseModel):
    """A global model version."""

    version: int = Field(description="Number of the round that made it.")
    parent_version: int | None = Field(description="The version that it was trained from.")
    current: bool = Field(description="Whether the next round starts from it.")
    metrics: dict[str, float]
    created_at: datetime
    promoted_at: datetime | None = Field(description="When somebody last chose it; it is kept since.")
    has_state: bool = Field(description="Whether a round can start from it; false once retention let its state go.")
    has_files: bool = Field(description="Whether it can be pulled; false once retention let its folder go.")

    @classmethod
    def of(cls, row: ModelVersionRow, current: int | None) -> ModelVersion:
        """From its row and the federation's current version."""
        return cls(
            version=row.version,
            parent_version=row.parent_version,
            current=row.version == current,
            metrics=row.metrics,
            created_at=row.created_at,
            promoted_at=row.promoted_at,
            has_state=row.state_removed_at is None,
            has_files=row.files_removed_at is None,
        )


class ModelVersionDetails(ModelVersion):
    """A global model version with its files."""

    files: list[ModelFile]


class PersonalizedModel(BaseModel):
    """A personalized model version that a site shared."""

    version: int = Field(description="Number of the round that made it.")
    metrics: dict[str, float]
    created_at: datetime
    has_files: bool = Field(description="Whether it can be pulled; false once retention let its folder go.")

    @classmethod
    def of(cls, row: PersonalizedModelRow) -> Self:
        """From its row."""
        has_files = row.files_removed_at is None
        return cls(version=row.version, metrics=row.metrics, created_at=row.created_at, has_files=has_files)


class PersonalizedModelDetails(BaseModel):
    """A personalized model version with its files."""

    version: int
    metrics: dict[str, float]
    created_at: datetime
    has_files: bool = Field(description="As of PersonalizedModel.")
    files: list[ModelFile]


class DownloadTicket(ModelFile):
    """A file and where to fetch it without a key."""

    url: str


class DownloadTickets(BaseModel):
    """The files of a version, to be fetched straight from the object store."""

    expires_at: datetime
    items: list[DownloadTicket]
