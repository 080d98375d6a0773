"""What names a stored artifact: where it lies, its hash, its size, and what it is for."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["ArtifactRef"]


class ArtifactRef(TypedDict):
    """A stored artifact as stages, the database and the protos name it. A plain dictionary at run time, so JSON too."""

    key: str
    """In the object store; `fedafd.artifacts.keys` makes it."""
    sha256: str
    size_bytes: int
    purpose: str
    """What the artifact is for, such as `server-state` or `encoder-bundle/image`; docs/artifacts.md lists them."""
