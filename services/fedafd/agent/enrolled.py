"""Who an agent is, checked before it speaks: it is enrolled or has a token, and its kind is agent.yaml's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedafd.agent.state import CREDENTIAL_FILE, Credential
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.telemetry.logging import get_logger

__all__ = ["need_kind", "need_token", "token_if_needed"]

_log = get_logger(__name__)


def token_if_needed(read: Callable[[], str | None], state_dir: Path) -> str | None:
    """The token that `read` gives. None where its file is gone or empty, and who has `state_dir` is enrolled.

    Raises ConfigurationError for such a file where nobody is enrolled yet.
    """
    try:
        return read()
    except ConfigurationError as error:
        if not (state_dir / CREDENTIAL_FILE).exists():
            raise
        _log.info("agent.token_not_read", reason=str(error))
        return None


def need_token(token: str | None, who: str = "agent") -> str:
    """The invitation's token for `who`. Raises ConfigurationError if there is none."""
    if not token:
        raise ConfigurationError(
            f"this {who} is not enrolled yet: give the invitation's token with --token or"
            f" FEDAFD_{who.upper()}_ENROLMENT_TOKEN(_FILE)"
        )
    return token


def need_kind(credential: Credential, kind: ClientKind, root: Path) -> None:
    """Raise ConfigurationError if the credential below `root` is of a client of another kind."""
    if credential.kind.value != kind.value:
        raise ConfigurationError(
            f"agent.yaml says kind: {kind.value}, but {root} holds the credential"
            f" of {credential.kind.value} client {credential.client_name!r}; correct one, or state_dir"
        )
