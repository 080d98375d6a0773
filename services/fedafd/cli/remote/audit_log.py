"""`fedafd audit export` and `fedafd audit verify`: the audit log as a file, and whether its chain of hashes holds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Url, connect
from fedafd.cli.remote.output import print_line
from fedafd.client.answers import Event
from fedafd.client.control_plane import ControlPlaneClient
from fedafd.domain.audit_chain import AuditEntry, ChainCheck, Head
from fedafd.domain.errors import DataError

__all__ = ["entries_of", "entries_of_server", "export", "verify"]

_LONGEST_LINE = 16 * 2**20


def export(
    file: Annotated[Path, typer.Argument(help="Where to write it; it is there when it is whole.")],
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Write the audit log of everything as JSON lines, the oldest entry first; for admins.

    The anchor that it prints is to be kept where nobody who runs the server can change it. An earlier export is
    replaced only by one that holds all of it: what a server forged or lost since stays to be seen.
    """
    earlier, head, count, behind = _Earlier(file), None, 0, 0
    # Of its owner alone, and under a name that nobody can take before: the folder may be shared.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as target:
            for entry in _answered(connect(url, api_key)):
                earlier.is_followed_by(AuditEntry.of_json(entry))
                target.write(json.dumps(entry) + "\n")
                count += 1
                if entry["hash"] is None:
                    behind += 1
                else:
                    head, behind = f"{entry['id']}:{entry['hash']}", 0
            earlier.has_ended()
            target.flush()
            os.fsync(target.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    print_line(f"{file}: {count} entries" + ("" if head is None else f"; anchor {head}"))
    if behind:
        # A program from before there was a chain wrote them; the next write gives them theirs.
        print_line(f"the last {behind} have no hash yet: export again later")


def verify(
    file: Annotated[Path | None, typer.Argument(help="What export wrote; without it the server is asked.")] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="ID:HASH as an earlier export, verify or log line told it; may be repeated."),
    ] = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Check that no entry of the audit log was changed, removed, put in or moved; exit code 1 if one was.

    With a file it asks nobody. Without an anchor it cannot see that the log's end was cut off, nor that all of it was
    made anew: give the newest that you have.
    """
    check = ChainCheck([Head.parse(text) for text in anchor or ()])
    entries = entries_of(file) if file is not None else entries_of_server(connect(url, api_key))
    misfit = next((fault for fault in map(check.misfit, entries) if fault is not None), None) or check.missing_end()
    head = None if check.head is None else str(check.head)
    if output.is_data:
        print_answer({"intact": misfit is None, "entries": check.count, "anchor": head, "misfit": misfit}, output)
    elif misfit is None:
        print_line(f"intact: {check.count} entries" + ("" if head is None else f"; anchor {head}"))
    else:
        print_line(f"NOT intact: {misfit}")
        print_line(f"fits until then: {check.count} entries" + ("" if head is None else f"; anchor {head}"))
    if misfit is not None:
        raise typer.Exit(1)


class _Earlier:
    """The export that lies where a new one is to be written, gone through beside the new one; empty if there is none.

    Raises DataError, at the first entry that the new one does not have as it was, and where no export lies there.
    """

    def __init__(self, file: Path) -> None:
        if (file.exists() or file.is_symlink()) and not file.is_file():
            raise DataError(f"{file}: is no file that an export could replace; name another one")
        self._file = file
        self._entries = entries_of(file) if file.exists() else iter(())

    def is_followed_by(self, entry: AuditEntry) -> None:
        """The next entry of the new export is that of the earlier one, or is behind its end."""
        exported = self._next()
        if exported is not None and not exported.is_held_by(entry):
            self._refuse(exported)

    def has_ended(self) -> None:
        """The new export has no more entries, and so the earlier one may have none."""
        exported = self._next()
        if exported is not None:
            self._refuse(exported)

    def _next(self) -> AuditEntry | None:
        try:
            return next(self._entries, None)
        except DataError as error:
            raise DataError(f"{error}. The file stays as it is: export to another one") from None

    def _refuse(self, exported: AuditEntry) -> NoReturn:
        raise DataError(
            f"{self._file}: stays as it is: the server's log no longer has its entry {exported.id} ({exported.kind},"
            f" {exported.at.isoformat()}) as it was exported. The log was changed, cut off or restored from a backup,"
            " or it is another server's. Keep the file, and export to another one"
        )


def _answered(server: ControlPlaneClient) -> Iterator[Event]:
    return (event for page in server.event_pages(None) for event in page["items"])


def entries_of_server(server: ControlPlaneClient) -> Iterator[AuditEntry]:
    """Of its log, the oldest first."""
    return map(AuditEntry.of_json, _answered(server))


def entries_of(file: Path) -> Iterator[AuditEntry]:
    """Of an exported log. Raises DataError for a line that is no entry."""
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(_LONGEST_LINE):
            number += 1
            try:
                yield AuditEntry.of_json(json.loads(line))
            except DataError as error:
                raise DataError(f"{file}, line {number}: {error}") from None
            except (ValueError, RecursionError):
                raise DataError(f"{file}, line {number}: is no JSON; export the log anew") from None
