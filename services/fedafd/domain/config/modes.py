"""The choices of a method that are named: how to align, fuse, weigh, average, and how numbers travel."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["AlignmentMode", "AveragingMode", "BundleDtype", "EnsembleMode", "FusionMode", "WireDtype"]


class AlignmentMode(StrEnum):
    """How a client aligns its encoder to the global representations."""

    OFF = "off"
    ADVERSARIAL = "adversarial"
    """BAA, the paper's."""
    ADVERSARIAL_PAIRING = "adversarial+pairing"
    """BAA and a contrastive term that tells which item is which."""
    PAIRING = "pairing"
    """That term alone."""
    CONTRASTIVE = "contrastive"
    """Inter- and intra-modal contrast of CreamFL, arXiv 2302.08888."""
    DIGEST = "digest"
    """Squared distance to the global representations: the digest step of FedMD, arXiv 1910.03581."""


class FusionMode(StrEnum):
    """What the granularity-aware fusion sees."""

    OFF = "off"
    """No fusion: the client's own feature."""
    VECTOR = "vector"
    TOKENS = "tokens"
    GLOBAL = "global"
    """No fusion and no local encoder: the frozen global feature, probed by the task's head."""


class EnsembleMode(StrEnum):
    """How the server weighs the clients' representations."""

    SIMILARITY = "similarity"
    """SED, the paper's: within the modality."""
    MEAN = "mean"
    CONTRASTIVE = "contrastive"
    """CreamFL's: against the other modality, the own item left out of the normaliser."""


class AveragingMode(StrEnum):
    """Whether clients of one architecture average their weights, and how."""

    OFF = "off"
    WEIGHTS = "weights"
    """FedAvg, arXiv 1602.05629: by the number of private samples. Weights leave the site."""


class BundleDtype(StrEnum):
    """How trained weights travel in an encoder bundle; frozen ones keep the type that they have."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class WireDtype(StrEnum):
    """How representations travel; int8 has one float32 scale per row."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"
    INT8 = "int8"
