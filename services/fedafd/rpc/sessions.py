"""Which process of a client calls: a random session id in the call's metadata, beside the credential.

A credential is a file, and a folder may be copied; a session is one process. An agent also names the sessions of
processes that it knows to be dead, those that ran in its own state folder, so that a restart need not wait for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fedafd.domain.errors import InvalidRequestError

__all__ = ["Sessions", "session_metadata", "sessions_in"]

_SESSION = "fedafd-session"
_ENDED = "fedafd-ended-sessions"
_MOST_ENDED = 8
_ID = re.compile(r"[0-9a-f]{16}")


class Sessions(NamedTuple):
    """The caller's session, and those that it says have ended; 16 hexadecimal digits each."""

    own: str
    ended: tuple[str, ...] = ()


def session_metadata(own: str, ended: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Metadata that carries the sessions, for a stub's call."""
    ended_part = ((_ENDED, ",".join(ended[-_MOST_ENDED:])),) if ended else ()
    return ((_SESSION, own), *ended_part)


def sessions_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> Sessions:
    """The sessions in a call's metadata. Raises InvalidRequestError where they are missing or malformed."""
    given = {key: value for key, value in metadata or () if isinstance(value, str)}
    own, ended = given.get(_SESSION, ""), [session_id for session_id in given.get(_ENDED, "").split(",") if session_id]
    if len(ended) > _MOST_ENDED or not all(_ID.fullmatch(session_id) for session_id in (own, *ended)):
        raise InvalidRequestError(
            "no session; send the metadata `fedafd-session` with 16 hexadecimal digits that are this process's own"
            " (agents before that are too old for this aggregator: update the agent)"
        )
    return Sessions(own, tuple(ended))
