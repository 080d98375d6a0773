"""A strategy of one's own. A strategy is no code: it is a set of values of federation.yaml under a name.

What a federation's file says itself wins over it, and it wins over the preset.
"""

from __future__ import annotations

from typing import Any

__all__ = ["STRATEGY"]

STRATEGY: dict[str, Any] = {
    "alignment": {"mode": "pairing"},  # no discriminator: a client's items are only told apart
    "distillation": {"weight": 1000, "self_share": 0.25},
}
