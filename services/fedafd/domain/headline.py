"""The figure of a model that matters first, and what a site's own model gained over the others."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["gain_words", "main_figure"]

_FIRST = ("acc1", "rsum", "map", "lrap", "micro_f1")
_OTHERS = ("alone", "local", "global")
_MODEL = "federated/"


def main_figure(metrics: Mapping[str, float | None]) -> str | None:
    """`acc1 71.9` of a site's own model, or of a global one; None where none was told."""
    for name in _FIRST:
        value = metrics.get(f"{_MODEL}{name}", metrics.get(name))
        if value is not None:
            return f"{name} {value:.1f}"
    return next((f"{name} {value:.1f}" for name, value in sorted(metrics.items()) if value is not None), None)


def gain_words(metrics: Mapping[str, float | None]) -> str | None:
    """`alone +1.2 ± 0.4`: its difference to the model that a site would have without the federation, if told."""
    for other in _OTHERS:
        gain, error = (metrics.get(f"over_{other}/{name}") for name in ("difference", "standard_error"))
        if gain is not None:
            return f"{other} {gain:+.1f}" + (f" ± {error:.1f}" if error is not None else "")
    return None
