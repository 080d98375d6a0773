"""`fedafd audit redo`: after a restore, take away again what was taken away since the backup."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.cli.remote.audit_log import entries_of, entries_of_server
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Url, connect
from fedafd.cli.remote.output import print_line
from fedafd.client import operations
from fedafd.client.control_plane import ControlPlaneClient
from fedafd.domain.audit_chain import ChainCheck, Head
from fedafd.domain.errors import DataError
from fedafd.domain.process_errors import ControlPlaneError
from fedafd.domain.taken_away import Taking, Takings, to_take_away

__all__ = ["redo"]

_WORDS = {
    Taking.REVOKE_CLIENT: "revoke client {name} of {federation}",
    Taking.REVOKE_KEY: "revoke API key {name}",
    Taking.EXCLUDE_CLIENT: "exclude client {name} of {federation}",
    Taking.FORGET_CLIENT: "forget client {name} of {federation}",
    Taking.DELETE_FEDERATION: "delete federation {name}",
    Taking.CONFIGURE: "configure {name} anew ({reason})",
    Taking.SET_CURRENT: "set the current version of {name} ({reason})",
}
_NOT_FOUND, _CONFLICT = 5, 6
_DONE, _ASKED = "done", "would be done"
_BY_HAND = {
    Taking.DELETE_FEDERATION: "left to you: `fedafd federation delete` says what goes",
    Taking.CONFIGURE: "left to you: `fedafd federation configure`",
    Taking.SET_CURRENT: "left to you: `fedafd model list`, `fedafd model promote`",
}


def redo(
    file: Annotated[Path, typer.Argument(help="What export wrote, as late before the restore as you have it.")],
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="ID:HASH as export, verify or a log line told it: the file must hold it; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """After a restore: take away again what the exported log took away since the backup; for admins.

    A client that was revoked, invited again, enrolled or bound to its first key since then is revoked: the backup knows
    an older credential or token of it, or one without its key. So is an API key that was revoked or rotated; keys come
    last, and where the key that you call with is one of them, repeat the command with another. Exclusions and requests
    to forget are made again. Federations that were deleted or configured since, and versions that were made the current
    one, are named: do that yourself.
    Whoever can write the file can put entries behind its end: give the newest anchor that you kept elsewhere.
    Exit code 1 if something could not be done. It may be repeated: what you decided since the restore stays.
    """
    server = connect(url, api_key)
    takings = _since_the_backup(server, file, [Head.parse(text) for text in anchor or ()])
    outcomes = [_ASKED if dry_run else _do(server, taking) for taking in takings]
    if output.is_data:
        print_answer(list(map(_facts, takings, outcomes)), output)
    else:
        for taking, outcome in zip(takings, outcomes, strict=True):
            print_line(f"{_words(taking)}: {outcome}")
        if not takings:
            print_line("nothing was taken away since the backup")
    if any(outcome.startswith("NOT done") for outcome in outcomes):
        raise typer.Exit(1)


def _since_the_backup(server: ControlPlaneClient, file: Path, anchors: Sequence[Head]) -> list[Takings]:
    check = ChainCheck(anchors)
    exported = list(entries_of(file))
    misfit = next((fault for fault in map(check.misfit, exported) if fault is not None), None) or check.missing_end()
    if misfit is not None:
        raise DataError(f"{file}: {misfit}")
    return to_take_away(exported, entries_of_server(server))


def _facts(taking: Takings, outcome: str) -> dict[str, str]:
    return {"what": taking.what, "federation": taking.federation, "name": taking.name, "outcome": outcome}


def _words(taking: Takings) -> str:
    return _WORDS[taking.what].format(name=taking.name, federation=taking.federation, reason=taking.reason)


def _do(server: ControlPlaneClient, taking: Takings) -> str:
    """How it went, in words."""
    if taking.what in _BY_HAND:
        return _BY_HAND[taking.what]
    try:
        _ask(server, taking)
    except ControlPlaneError as error:
        if error.exit_code == _NOT_FOUND:
            return "is not in the backup"
        if error.exit_code == _CONFLICT and "revoked before" in str(error):
            return "is so in the backup"
        return f"NOT done: {error}"
    return _DONE


def _ask(server: ControlPlaneClient, taking: Takings) -> None:
    if taking.what is Taking.REVOKE_KEY:
        server.ask(operations.REVOKE_KEY, taking.name)
    elif taking.what is Taking.REVOKE_CLIENT:
        server.ask(operations.REVOKE_CLIENT, taking.federation, taking.name)
    elif taking.what is Taking.FORGET_CLIENT:
        server.ask(operations.FORGET_CLIENT, taking.federation, taking.name)
    else:
        _exclude(server, taking, taking.from_round)


def _exclude(server: ControlPlaneClient, taking: Takings, from_round: int | None) -> None:
    """From that round on, or from the next one where that one has invited its clients."""
    wanted = {"reason": taking.reason, "from_round": from_round}
    try:
        server.ask(operations.EXCLUDE_CLIENT, taking.federation, taking.name, json=wanted)
    except ControlPlaneError as error:
        if from_round is None or error.exit_code != _CONFLICT:
            raise
        _exclude(server, taking, None)
