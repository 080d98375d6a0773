"""Path and body fields that several resources share."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Path
from pydantic import Field

from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.domain.errors import InvalidRequestError

__all__ = ["NAME_PATTERN", "ClientName", "FederationName", "Name", "RoundNumber", "Sha256", "Version", "check_storable"]

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

Name = Annotated[
    str, Field(pattern=NAME_PATTERN, examples=["north"], description="Lower-case letters, digits and hyphens.")
]
FederationName = Annotated[str, Path(pattern=NAME_PATTERN, examples=["lungs"], description="The federation.")]
ClientName = Annotated[str, Path(pattern=NAME_PATTERN, examples=["hospital-north"], description="The client.")]
RoundNumber = Annotated[int, Path(ge=1, le=MAX_INTEGER, examples=[1], description="Rounds count from 1.")]
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in lower-case hexadecimal.")]
Version = Annotated[
    str, Path(pattern=r"^(current|[1-9][0-9]{0,8})$", examples=["current", "3"], description="A number, or `current`.")
]


def check_storable(values: dict[str, Any]) -> None:
    """Raise InvalidRequestError for JSON that a database refuses: infinities, NUL characters, half surrogates."""
    try:
        encoded = json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"body: holds a value that cannot be stored: {type(error).__name__}") from None
    if b"\\u0000" in encoded:
        raise InvalidRequestError("body: holds a NUL character, which cannot be stored")
