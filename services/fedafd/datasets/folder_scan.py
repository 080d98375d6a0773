"""What lies in a folder of pictures: pictures, sub-folders, and what is left out, by reason.

Nothing is followed out of the data's folder, unless the site says so: a link may lead elsewhere in it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedafd.datasets.file_kinds import is_dicom
from fedafd.datasets.listing import LeftOut, LeftOutReason, Listing, left_out
from fedafd.domain.errors import DataError

__all__ = ["ENDINGS", "FolderScan", "Look", "shown"]

ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".png", ".apng", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".avif"),
        *(".dcm", ".dicom"),
    }
)
"""Endings of pictures, in small letters. A file with another ending, or none, is read if it is DICOM."""
_SYSTEM = frozenset(
    {
        *("__macosx", "lost+found", "@eadir", "#recycle", "$recycle.bin", "system volume information", "__pycache__"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "dicomdir"),
    }
)
"""Folders and files of file systems and archive programs, and the index of a DICOM disk, in small letters."""
_DICOM_HEAD = 132
_MOST_KINDS = 6


@dataclass(frozen=True)
class Look:
    """One folder's own entries, sorted by name, but for those that are left out."""

    folders: tuple[Path, ...]
    pictures: tuple[Path, ...]
    others: tuple[str, ...]
    """Endings of the files that are no pictures."""


@dataclass
class FolderScan:
    """Looks below `root` and remembers what was left out."""

    root: Path
    follow_links: bool = False
    _left: dict[LeftOutReason, dict[str, str]] = field(default_factory=dict)
    """By reason: what kind of thing each relative path is."""

    def look(self, folder: Path) -> Look:
        """The entries of `folder`. Raises DataError if it cannot be listed, or for a folder linked from elsewhere."""
        folders, pictures, others = [], [], []
        for path in _entries(folder):
            if path.name.startswith("."):
                self._leave_out(LeftOutReason.HIDDEN, "name starts with a dot", path)
            elif path.name.lower() in _SYSTEM:
                self._leave_out(LeftOutReason.SYSTEM, path.name, path)
            elif path.is_symlink() and not path.exists():
                self._leave_out(LeftOutReason.OUTSIDE, "link to nothing", path)
            elif self._leaves(path):
                if path.is_dir():
                    raise DataError(
                        f"{path}: a link to a folder outside {self.root}; copy the folder, or set the option"
                        " follow_links: true"
                    )
                self._leave_out(LeftOutReason.OUTSIDE, "link that leaves the folder", path)
            elif path.is_dir():
                folders.append(path)
            elif (
                path.exists() and not path.is_file()
            ):  # opening a pipe waits for its writer, and a device may never end
                self._leave_out(LeftOutReason.SYSTEM, "a pipe, socket or device", path)
            elif _is_picture(path):
                pictures.append(path)
            else:
                others.append(shown(Path(path.suffix.lower())) if path.suffix else "no ending")
                self._leave_out(LeftOutReason.EXTENSION, others[-1], path)
        return Look(tuple(folders), tuple(pictures), tuple(others))

    def leave_out_nested(self, folder: Path) -> int:
        """Remember all files below a sub-folder of a class as too deep. Returns how many pictures are among them."""
        name = shown(folder.relative_to(self.root))
        return self._leave_out(LeftOutReason.NESTED, f"in {name}", folder)

    def leave_out_unused(self, path: Path, what: str) -> None:
        """Remember a file, or all below a folder, that nothing needs."""
        self._leave_out(LeftOutReason.UNUSED, what, path)

    def listing(self, files_read: int, notes: tuple[str, ...]) -> Listing:
        """The pictures that were read, by their number, and what was left out."""
        left: list[LeftOut] = []
        for reason in LeftOutReason:
            left += left_out(reason, [(what, path) for path, what in self._left.get(reason, {}).items()])
        seen = files_read + sum(entry.count for entry in left)
        return Listing(source=str(self.root), files_seen=seen, files_read=files_read, left_out=tuple(left), notes=notes)

    def unread_note(self) -> tuple[str, ...]:
        """A sentence about left-out files that a site may have meant to be read; none if there are none."""
        meant = (LeftOutReason.EXTENSION, LeftOutReason.NESTED, LeftOutReason.OUTSIDE, LeftOutReason.UNUSED)
        kinds = Counter(what for reason in meant for what in self._left.get(reason, {}).values())
        if not kinds:
            return ()
        counted = ", ".join(f"{count} ({what})" for what, count in kinds.most_common(_MOST_KINDS))
        more = f" and {len(kinds) - _MOST_KINDS} kinds more" if len(kinds) > _MOST_KINDS else ""
        return (f"files that are not read: {counted}{more}",)

    def has_pictures_below(self, folder: Path) -> bool:
        """Whether any file below `folder` has a picture's ending."""
        return any(path.suffix.lower() in ENDINGS for path in _files_below(folder))

    def _leave_out(self, reason: LeftOutReason, what: str, path: Path) -> int:
        files = list(_files_below(path)) if path.is_dir() and not path.is_symlink() else [path]
        self._left.setdefault(reason, {}).update({shown(file.relative_to(self.root)): what for file in files})
        return sum(file.suffix.lower() in ENDINGS for file in files)

    def _leaves(self, path: Path) -> bool:
        if self.follow_links or not path.is_symlink():
            return False
        try:
            return not path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a link to itself
            return True


def shown(path: Path) -> str:
    """A path as text that can be written anywhere: bytes of a name that are not UTF-8 become escapes."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None


def _files_below(folder: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(folder):
        yield from (Path(directory) / name for name in names)


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in ENDINGS:
        return path.is_file() or path.is_symlink()
    try:
        with path.open("rb") as file:
            return path.is_file() and is_dicom(file.read(_DICOM_HEAD), "")
    except OSError:
        return False
