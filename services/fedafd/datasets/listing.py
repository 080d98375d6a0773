"""What an adapter saw on its way to the samples: files read, files left out and why, and what it wants to tell.

A listing costs nothing beyond what loading costs anyway. What takes a look at every sample - broken files, repeats,
sizes, unknown words - is found by `fedafd.datasets.report`, which starts from the listing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

__all__ = ["LeftOut", "LeftOutReason", "Listing", "folder_listing", "left_out"]

_EXAMPLES = 3


class LeftOutReason(StrEnum):
    """Why a file or folder below the data's path is not read."""

    HIDDEN = "hidden"
    """Its name starts with a dot; `._*` files of macOS, too."""
    SYSTEM = "system"
    """A folder that an archive program or a file system made: `__MACOSX`, `lost+found`, `@eaDir`."""
    EXTENSION = "extension"
    """The adapter reads no files with its ending."""
    NESTED = "nested"
    """It lies deeper than the adapter looks."""
    OUTSIDE = "outside"
    """A link that leaves the data's folder."""
    UNUSED = "unused"
    """A file that the adapter could read, but that belongs to no split, such as a backup copy."""

    @property
    def words(self) -> str:
        """For a sentence such as `7 files of another ending`."""
        return _WORDS[self]


_WORDS = {
    LeftOutReason.HIDDEN: "hidden",
    LeftOutReason.SYSTEM: "of the system",
    LeftOutReason.EXTENSION: "of another ending",
    LeftOutReason.NESTED: "deeper than the adapter looks",
    LeftOutReason.OUTSIDE: "behind links that lead elsewhere",
    LeftOutReason.UNUSED: "of no split",
}


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files left out for one reason; `what` tells them apart further, such as the ending `.heic`."""

    reason: LeftOutReason
    what: str
    count: int
    examples: tuple[str, ...]
    """A few paths, relative to the data's folder. They are for the site's own eyes and never leave it."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What loading a data set read and left out. Paths and names in it never leave the site."""

    source: str = ""
    """The folder or file that was read; empty for generated data."""
    files_seen: int = 0
    files_read: int = 0
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What a person should know, a sentence each: a class without samples, a split that was made by the adapter."""


def left_out(reason: LeftOutReason, entries: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """One LeftOut for each `what` in `entries`, pairs of (what, relative path), most frequent first."""
    paths: dict[str, list[str]] = {}
    for what, path in entries:
        paths.setdefault(what, []).append(path)
    by_count = sorted(paths.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        LeftOut(reason=reason, what=what, count=len(names), examples=tuple(sorted(names)[:_EXAMPLES]))
        for what, names in by_count
    )


def folder_listing(
    folder: Path,
    read: Collection[str],
    endings: Collection[str],
    *,
    below: Iterable[str] = ("",),
    notes: tuple[str, ...] = (),
) -> Listing:
    """What lies in the sub-folders `below` of `folder`, itself by default, where the files `read` were read.

    Other files with one of `endings`, in small letters, could have been read, but are unused.
    """
    subfolders = [folder / name for name in below if (folder / name).is_dir()]
    files = {
        entry.relative_to(folder).as_posix()
        for folder_listed in subfolders
        for entry in folder_listed.iterdir()
        if entry.is_file()
    }
    kinds: dict[LeftOutReason, list[tuple[str, str]]] = {reason: [] for reason in LeftOutReason}
    for path in sorted(files - set(read)):
        name = path.rpartition("/")[2]
        ending = Path(name).suffix.lower()
        if name.startswith("."):
            kinds[LeftOutReason.HIDDEN].append(("name starts with a dot", path))
        elif ending in endings:
            kinds[LeftOutReason.UNUSED].append((f"{ending} of no split", path))
        else:
            kinds[LeftOutReason.EXTENSION].append((ending or "no ending", path))
    left = tuple(omission for reason, entries in kinds.items() for omission in left_out(reason, entries))
    seen = len(files | set(read))
    return Listing(source=str(folder), files_seen=seen, files_read=len(set(read)), left_out=left, notes=notes)
