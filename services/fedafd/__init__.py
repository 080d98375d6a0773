"""FedAFD: multimodal federated learning by adversarial alignment, fusion and distillation (arXiv 2603.04890)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedafd.learning.global_model import GlobalModel
    from fedafd.learning.personalized_model import PersonalizedModel

    __version__: str

__all__ = ["GlobalModel", "PersonalizedModel", "__version__"]

_HOMES = {
    "GlobalModel": "fedafd.learning.global_model",
    "PersonalizedModel": "fedafd.learning.personalized_model",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Looked up when it is asked for: the lookup reads files, its import takes long, and most processes never ask.
        from importlib.metadata import version

        return version("fedafd")
    # Importing fedafd must not import torch: most processes never need it.
    if name not in _HOMES:
        raise AttributeError(f"module 'fedafd' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fedafd"):
            raise
        raise ImportError(
            f"fedafd.{name} needs {error.name}, which this installation does not have; install the extra `learning`:"
            " pip install 'fedafd[learning]'"
        ) from None
