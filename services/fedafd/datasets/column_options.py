"""Options that every adapter of columns takes, whatever kind of file the columns are in."""

from __future__ import annotations

from dataclasses import dataclass

from fedafd.datasets.intensity import IntensityRange

__all__ = ["ColumnOptions"]


@dataclass(frozen=True)
class ColumnOptions:
    """Which columns and splits. A name with dots is a field of a struct, or of each struct of a list."""

    image_column: str = "image"
    """A file's bytes, or a struct with `bytes`; of a saved data set an image, too."""
    text_column: str = "text"
    label_column: str = "label"
    caption_column: str = "captions"
    """A list of texts, or a text in a data set; `captions.raw` where it is one of structs."""
    id_column: str | None = "id"
    """Of pairs; need not be there. None: read none."""
    train: str | None = None
    """Name or pattern of the split's files, or the data set's own name of it; None: the usual names. The same for the
    next two."""
    val: str | None = None
    test: str | None = None
    intensity_range: IntensityRange | None = None
    """The values that become black and white in images of more than 8 bits."""
