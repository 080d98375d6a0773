"""What `fedafd predict` and `fedafd search` share: finding samples, showing progress, writing results whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TypeVar

from fedafd.cli.console import console_for
from fedafd.domain.errors import ConfigurationError, DataError, InvalidRequestError

__all__ = [
    "UsageError",
    "exactly_one",
    "in_chunks",
    "need_learning",
    "need_modules",
    "one_line",
    "pictures_in",
    "progress",
    "results_to",
    "texts_in",
]

T = TypeVar("T")


class UsageError(InvalidRequestError):
    """Options that do not go together, or a place where results cannot be written."""

    exit_code = 2


_NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL")


def need_learning(command: str) -> None:
    """Raise ConfigurationError saying what to install, where the libraries that load models are missing."""
    need_modules(command, _NEEDED, "learning")


def need_modules(command: str, names: Iterable[str], extra: str) -> None:
    """Raise ConfigurationError naming the modules that are missing and the extra that brings them."""
    missing = [name for name in names if not _is_there(name)]
    if missing:
        raise ConfigurationError(
            f"fedafd {command} needs {', '.join(missing)}, which this installation does not have; install the extra"
            f" `{extra}`: pip install 'fedafd[{extra}]'"
        )


def pictures_in(folder: Path) -> list[Path]:
    """All pictures below a folder, by their endings, in the order of their paths; hidden ones are left out."""
    from fedafd.datasets.folder_scan import ENDINGS

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None

    pictures = []
    for directory, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        shown = (name for name in files if not name.startswith("."))
        pictures += [Path(directory, name) for name in shown if Path(name).suffix.lower() in ENDINGS]
    return sorted(pictures)


def texts_in(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of each line of a file that is not empty. Raises DataError naming file and line."""
    from fedafd.datasets.files import read_bytes
    from fedafd.datasets.texts import decoded, lines_of

    if not path.is_file():
        raise DataError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    for number, line in enumerate(lines_of(decoded(read_bytes(path), path), path), start=1):
        if line.strip():
            yield f"{path}:{number}", line


def one_line(text: str) -> str:
    """Any text in one line of a terminal: what would move its cursor is shown as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, `size` at a time."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@contextmanager
def progress(what: str, total: int | None, *, prints: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal that no results are printed to; tell it how many are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console_for(stderr=True)
    hidden = not console.is_terminal or (prints and sys.stdout.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def results_to(output: Path | None, *, force: bool, inputs: Iterable[Path] = ()) -> Iterator[IO[str]]:
    """Standard output, or a file that is there whole or not at all.

    Raises UsageError if it is there, cannot be written, or, whatever `force` says, is one of `inputs`.
    """
    if output is None:
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    if output.is_dir() or (output.exists() and not force):
        hint = "name a file in it" if output.is_dir() else "name another, or add --force"
        raise UsageError(f"{output}: is there already; {hint}")
    for path in inputs if output.exists() else ():
        with suppress(OSError):
            if path.samefile(output):
                raise UsageError(f"{output}: is one of the samples, and would be lost; name another file")
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        opened = part.open("x", encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to {output.parent}: {error.strerror}") from None
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def exactly_one(given: Sequence[tuple[str, object]]) -> str:
    """The name of the one way that samples are given in. Raises UsageError for none or several."""
    names = [name for name, value in given if value]
    if len(names) != 1:
        what = " and ".join(names) if names else "nothing"
        raise UsageError(f"give one of {', '.join(name for name, _ in given)}; {what} was given")
    return names[0]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
