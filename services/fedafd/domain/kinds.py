"""The kinds of things a federation is made of, under the names of the maths, the database and the protos."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

__all__ = [
    "CLAIMED_TOGETHER",
    "FOLDS_TOGETHER",
    "ClientKind",
    "Modality",
    "ParticipantKind",
    "Role",
    "StageKind",
    "UploadPurpose",
    "in_order",
]

T = TypeVar("T")

FOLDS_TOGETHER = 16
"""How many folds, weighings or merges of a round a distiller claims at once, and one message announces."""


class Modality(StrEnum):
    """One of the two modalities of the public set."""

    IMAGE = "image"
    TEXT = "text"

    @property
    def other(self) -> Modality:
        """The modality that this one is paired with."""
        return Modality.TEXT if self is Modality.IMAGE else Modality.IMAGE


def in_order(values: Mapping[Modality, T]) -> dict[Modality, T]:
    """`values`, image first. Files give their tensors in any order, and a sum's last bits depend on it."""
    return {modality: values[modality] for modality in Modality if modality in values}


class ClientKind(StrEnum):
    """What a client's private data is made of; it decides the task and the representations it sends."""

    IMAGE = "image"
    TEXT = "text"
    PAIR = "pair"

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that a client of this kind holds an encoder for, image first."""
        if self is ClientKind.PAIR:
            return (Modality.IMAGE, Modality.TEXT)
        return (Modality(self.value),)


class ParticipantKind(StrEnum):
    """What takes part in a federation: a client of one of the kinds, or a region that stands for many."""

    IMAGE = "image"
    TEXT = "text"
    PAIR = "pair"
    REGION = "region"
    """Folds the representations of clients of its own, and delivers their merged SED states (docs/hierarchy.md)."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that one of this kind may deliver, image first."""
        if self is ParticipantKind.REGION:
            return tuple(Modality)
        return ClientKind(self.value).modalities


class Role(StrEnum):
    """What an API key may do: look, run federations, or everything (keys, personalized models)."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class StageKind(StrEnum):
    """A unit of a distiller's work."""

    PREPARE = "prepare"
    FOLD = "fold"
    WEIGH = "weigh"
    MERGE = "merge"
    DISTIL = "distil"
    EVALUATE = "evaluate"


CLAIMED_TOGETHER = frozenset({StageKind.FOLD, StageKind.WEIGH, StageKind.MERGE})
"""Kinds of which a round has many: a distiller claims several at once, and one message announces as many."""


class UploadPurpose(StrEnum):
    """What a client may upload."""

    REPRESENTATIONS = "representations"
    PERSONALIZED_MODEL = "personalized-model"
    WEIGHTS = "weights"
    """For strategies that average them."""
    MERGED_STATES = "merged-states"
    """A region's, in place of representations."""
