"""Seeds of every random choice, so that a round repeated is the same round, bit for bit."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(federation_seed: int, *parts: str | int) -> int:
    """Seed for one purpose: a function of the federation's seed and `parts`, in 0 .. 2**63 - 1.

    Parts are usually (round number, client name, stage). Distinct parts give independent streams.
    """
    text = "\x1f".join([str(federation_seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
