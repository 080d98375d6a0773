"""Pictures small enough for a page, as PNG."""

from __future__ import annotations

import base64
import io

from PIL import Image

from fedafd.datasets.samples import ImageArray

__all__ = ["as_data_url", "small_png"]

_SIDE = 256


def small_png(picture: ImageArray) -> bytes:
    """At most 256 pixels wide and high; small pictures stay as they are."""
    drawn = Image.fromarray(picture)
    drawn.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    drawn.save(file, format="PNG")
    return file.getvalue()


def as_data_url(png: bytes) -> str:
    """A PNG that stands in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
