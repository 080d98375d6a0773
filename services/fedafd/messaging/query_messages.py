"""What the control plane asks a query worker, and what that answers: JSON, which lives in Redis for seconds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedafd.artifacts.keys import FEDERATIONS

__all__ = [
    "MAX_CAPTION_CHARACTERS",
    "MAX_PICTURE_BYTES",
    "MAX_TOP_K",
    "Query",
    "QueryAnswer",
    "QueryFile",
    "QueryHit",
]

MAX_CAPTION_CHARACTERS = 1000
MAX_PICTURE_BYTES = 5 << 20
"""Of the file; how many pixels it may have is the decoder's limit."""
MAX_TOP_K = 24

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class QueryFile(_Message):
    """A file of the version's folder: where it lies in the object store, and what it must be."""

    path: str
    key: str
    sha256: Sha256

    @field_validator("key")
    @classmethod
    def _of_no_client(cls, key: str) -> str:
        """Whoever can write to Redis asks no site's own model."""
        if not key.startswith(FEDERATIONS) or key.split("/")[2:3] == ["clients"]:
            raise ValueError("names no file of a federation's model")
        return key


class Query(_Message):
    """A caption, or the content of an image file, and the version that shall make something of it."""

    files: tuple[QueryFile, ...] = Field(min_length=1)
    public_set_sha256: Sha256
    caption: str | None = Field(None, min_length=1, max_length=MAX_CAPTION_CHARACTERS)
    picture: bytes | None = Field(None, min_length=1, max_length=MAX_PICTURE_BYTES)
    top_k: int = Field(ge=1, le=MAX_TOP_K)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.caption is None) == (self.picture is None):
            raise ValueError("a query is either a caption or a picture")
        return self


class QueryHit(_Message):
    """A public picture, or a public caption with the first picture that has it."""

    id: str
    split: str
    likeness: float
    captions: tuple[str, ...]
    thumbnail: bytes | None
    """JPEG; None where the picture cannot be read."""


class QueryAnswer(_Message):
    """Hits, best first; or how far the version is with the public set; or why there are none."""

    state: Literal["ready", "preparing", "refused"]
    hits: tuple[QueryHit, ...] = ()
    num_searched: int = 0
    """Pictures, or different captions, that were looked through."""
    num_pictures: int = 0
    """Of the whole public set."""
    step: Literal["loading", "embedding"] | None = None
    """While preparing: the version is being loaded, or it embeds the public set."""
    done: int = 0
    total: int = 0
    """While it embeds: embeddings that are made, and that are needed."""
    code: str = ""
    """When refused: the error's code, and its text."""
    message: str = ""
