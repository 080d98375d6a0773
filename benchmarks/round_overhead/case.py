"""A case of the benchmark: so many clients, each of which sends so many megabytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.light_sites import Blob
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.kinds import Modality

__all__ = ["DEFAULT", "MEGABYTE", "Case"]

MEGABYTE = 1_000_000
_SMALLEST = (8, 8)
_WIDEST = 4096
_BYTES_OF_ROW = 2 * 2
"""Per number of a row: two modalities in float16."""


@dataclass(frozen=True)
class Case:
    """How many clients, and how much each of them sends, and gets as global representations."""

    clients: int
    megabytes: int
    width: int = _WIDEST
    """Numbers per row. The widest by default: a fold's arithmetic grows with the square of the number of samples."""

    @classmethod
    def of(cls, text: str) -> Case:
        """From such as 8x10, or 8x1x256 with rows of 256 numbers. Raises ValueError."""
        clients, megabytes, *width = text.split("x", maxsplit=2)
        return cls(int(clients), int(megabytes), *map(int, width))

    def __str__(self) -> str:
        rows = "" if self.width == _WIDEST else f", rows of {self.width}"
        return f"{self.clients} x {self.megabytes} MB{rows}"

    @property
    def name(self) -> str:
        """Of its federation."""
        return f"case-{self.clients}-{self.megabytes}-{self.width}"

    @property
    def shape(self) -> tuple[int, int]:
        """Public samples and numbers per row."""
        if self.megabytes == 0:
            return _SMALLEST
        return -(-self.megabytes * MEGABYTE // (self.width * _BYTES_OF_ROW)), self.width

    def federation(self) -> dict[str, Any]:
        """Its configuration: tiny encoders, one pass over the public set."""
        resnet = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        return {
            "name": self.name,
            "embedding_dim": self.shape[1],
            "image_encoder": {"architecture": "resnet", "image_size": 32, "options": resnet},
            "text_encoder": {"architecture": "bigru", "options": {"embedding_size": 16, "hidden_size": 16}},
            "server": {"passes": 1, "optimizer": "sgd"},
            "idle_timeout_seconds": 600,
            "round_deadline_seconds": None,
        }

    def blobs(self, public_set_sha256: str) -> Iterator[Blob]:
        """What each client sends: other bytes than any other's, of which only the first chunk differs."""
        rows_ND = np.random.default_rng(0).standard_normal(self.shape, dtype=np.float32)
        rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
        held: dict[str, bytes] = {}
        for number in range(self.clients):
            own_ND = rows_ND.copy()
            own_ND[0] = np.roll(own_ND[0], number % self.shape[1])
            own_ND[1] = np.roll(own_ND[1], number // self.shape[1])
            both = {Modality.IMAGE: own_ND, Modality.TEXT: rows_ND}
            yield Blob.of(encode_representations(both, public_set_sha256), held)


DEFAULT = tuple(Case(*each) for each in ((8, 1), (8, 10), (32, 10), (8, 100), (50, 1), (200, 0)))
