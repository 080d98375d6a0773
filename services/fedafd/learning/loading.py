"""Any model folder, loaded as what it is."""

from __future__ import annotations

from pathlib import Path

from fedafd.datasets.intensity import IntensityRange
from fedafd.learning.global_model import GlobalModel
from fedafd.learning.model_folder import GLOBAL_MODEL, read_whole
from fedafd.learning.personalized_model import PersonalizedModel

__all__ = ["load_model"]


def load_model(
    folder: str | Path, *, device: str = "auto", intensity_range: IntensityRange | None = None
) -> GlobalModel | PersonalizedModel:
    """The model of a folder. Raises DataError and ConfigurationError as the models' `from_pretrained`."""
    is_global = read_whole(folder, lambda model_folder: model_folder.model_type) == GLOBAL_MODEL
    chosen = GlobalModel if is_global else PersonalizedModel
    return chosen.from_pretrained(folder, device=device, intensity_range=intensity_range)
