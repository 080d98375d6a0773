"""Queries to a model version: the answer, once the version's embeddings of the public set are there."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

from fedafd.client.answers import SearchAnswer
from fedafd.client.control_plane import ControlPlaneClient
from fedafd.client.operations import SEARCH_MODEL
from fedafd.domain.process_errors import ControlPlaneError

__all__ = ["search_model"]

_PAUSE_SECONDS = 2.0


def search_model(
    control_plane: ControlPlaneClient,
    federation: str,
    version: str,
    *,
    caption: str | None = None,
    image: bytes | None = None,
    top_k: int = 6,
    seconds: float = 3600.0,
    on_preparing: Callable[[int, int], None] = lambda _, __: None,
) -> SearchAnswer:
    """The public pictures that are nearest to a caption, or the captions nearest to an image file's content.

    The first query to a version waits until it is loaded and its embeddings are made; `on_preparing` hears how many
    are, of how many: 0 of 0 while it is being loaded.
    Raises ControlPlaneError, also where that takes longer than `seconds`.
    """
    encoded = None if image is None else base64.b64encode(image).decode()
    asked = {"caption": caption, "image": encoded, "top_k": top_k}
    end = time.monotonic() + seconds
    while True:
        answer = control_plane.ask(SEARCH_MODEL, federation, version, json=asked)
        if answer["state"] == "ready":
            return answer
        on_preparing(answer["done"], answer["total"])
        if time.monotonic() > end:
            raise ControlPlaneError(
                f"version {answer['version']}: {_how_far(answer)} after {seconds:.0f} s; it goes on,"
                " so ask again later",
                passing=True,
            )
        time.sleep(_PAUSE_SECONDS)


def _how_far(answer: SearchAnswer) -> str:
    if answer["step"] == "loading":
        return "is still being loaded"
    return f"{answer['done']} of {answer['total']} embeddings are made"
