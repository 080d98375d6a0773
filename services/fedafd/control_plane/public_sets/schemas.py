"""JSON of public sets."""

from __future__ import annotations

from pydantic import BaseModel, Field

from fedafd.persistence.models import FederationRow

__all__ = ["NumSamples", "PublicSet"]


class NumSamples(BaseModel):
    """Samples of each split."""

    train: int
    val: int
    test: int


class PublicSet(BaseModel):
    """A federation's public set."""

    sha256: str = Field(description="Hash of its manifest, which names the set.")
    num_samples: NumSamples

    @classmethod
    def of(cls, row: FederationRow) -> PublicSet:
        """From the row of a federation that has one."""
        return cls(sha256=str(row.public_set_sha256), num_samples=NumSamples.model_validate(row.public_set_summary))
