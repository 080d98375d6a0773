"""Whose fault unreadable data are: errors of readers of private and shared data alike, told as of the shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedafd.domain.errors import DataError, UploadError

__all__ = ["blaming"]


@contextmanager
def blaming(shared: type[DataError]) -> Iterator[None]:
    """A DataError or UploadError raised inside leaves as `shared`, with the same words; others leave as they are."""
    try:
        yield
    except (DataError, UploadError) as error:
        if type(error) not in (DataError, UploadError):
            raise
        raise shared(str(error)) from error
