"""Bringing a federation to life step by step: each step looks whether it was done, so that all may be repeated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedafd.client.federation import FederationClient
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.whole_files import write_whole

__all__ = ["Invitation", "set_up_federation"]


@dataclass(frozen=True)
class Invitation:
    """A client to invite, and the file that its one-time token goes to."""

    name: str
    kind: ClientKind
    token_file: Path


def set_up_federation(
    federation: FederationClient,
    config: dict[str, Any],
    write_public_set: Callable[[Path], None],
    invitations: Iterable[Invitation],
) -> Iterator[str]:
    """Create the federation, push its public set, invite its clients: what is missing. Yields a line for each step.

    `write_public_set` writes the set into a folder; it is called only where the set is missing.
    """
    if federation.exists():
        yield f"federation {federation.name}: is there, its configuration stays as it is"
    else:
        federation.create(config)
        yield f"federation {federation.name}: created"
    if federation.public_set() is not None:
        yield "public set: is there"
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_public_set(Path(folder))
            federation.push_public_set(Path(folder))
        yield "public set: pushed"
    states = {client["name"]: client["state"] for client in federation.clients()}
    for invitation in invitations:
        if states.get(invitation.name) == "enrolled":
            yield f"client {invitation.name}: is enrolled"
            continue
        # A token is shown once. Inviting a client again that has not enrolled replaces it.
        _write_token(invitation.token_file, federation.invite(invitation.name, invitation.kind.value))
        yield f"client {invitation.name}: invited, token in {invitation.token_file}"


def _write_token(path: Path, token: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{token}\n", mode=0o400)
    except OSError as error:
        raise ConfigurationError(f"{path}: the token cannot be written: {error.strerror}") from error
