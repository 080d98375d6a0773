"""What lies in the object store: artifacts, uploads on their way, model versions and their files."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from fedafd.persistence.clock import utc_now
from fedafd.persistence.models.base import Base, new_id

__all__ = ["ArtifactRow", "ModelFileRow", "ModelVersionRow", "PersonalizedModelRow", "UploadRow"]


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
