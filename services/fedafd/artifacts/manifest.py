"""The public set's manifest: the shards of each split by hash. The SHA-256 of its canonical bytes names the set."""

from __future__ import annotations

import json
from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of

__all__ = ["LONGEST_MANIFEST", "MANIFEST_NAME", "Manifest", "Shard", "read_manifest"]

MANIFEST_NAME = "manifest.json"
LONGEST_MANIFEST = 16 << 20
"""Bytes: it is parsed in memory, which takes a multiple of that."""
_HEX = r"^[0-9a-f]{64}$"


class Shard(BaseModel):
    """One Parquet file of a split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["train", "val", "test"]
    name: str = Field(pattern=r"^[a-z0-9-]+\.parquet$")
    sha256: str = Field(pattern=_HEX)
    size_bytes: int = Field(ge=1)
    num_rows: int = Field(ge=1)


class Manifest(BaseModel):
    """What the public set consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(1, ge=1, le=1)
    shards: tuple[Shard, ...] = Field(min_length=1)

    @field_validator("shards")
    @classmethod
    def _no_name_twice(cls, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        """Shards are stored by their names: of two with one name, the second would be lost."""
        twice = [name for name, count in Counter(shard.name for shard in shards).items() if count > 1]
        if twice:
            raise ValueError(f"several shards have the name {twice[0]}")
        return shards

    def num_samples(self, split: str = "train") -> int:
        """Samples of one split; N for `train`."""
        return sum(shard.num_rows for shard in self.shards if shard.split == split)

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal manifests have equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """The hash that names the set."""
        return sha256_of(self.to_bytes())


def read_manifest(content: bytes) -> Manifest:
    """Parse a manifest. Raises DataError saying what is wrong where."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise DataError(f"public set manifest, {where}: {first['msg']}") from None
