"""What each call of an agent carries: its credential, the proof of its key, its session and the trace."""

from __future__ import annotations

from fedafd.agent.session import AgentSession
from fedafd.agent.state import Credential
from fedafd.rpc.client_key import ClientKey
from fedafd.rpc.credentials import bearer_metadata
from fedafd.telemetry.tracing import trace_metadata

__all__ = ["Signing"]

_SERVICE = "/fedafd.v1.AggregatorService/"


class Signing:
    """Signs calls with a credential's key. Raises ConfigurationError for a key that cannot be used."""

    def __init__(self, credential: Credential | None, session: AgentSession | None) -> None:
        self._session = session
        self._who = () if credential is None else bearer_metadata(credential.secret)
        self._secret = "" if credential is None else credential.secret
        self._key: ClientKey | None = None
        if credential is not None and credential.certificate:
            self._key = ClientKey(credential.key, credential.certificate)

    def metadata(self, method: str) -> tuple[tuple[str, str], ...]:
        """Metadata of one call; the proof is made anew for each."""
        proof = () if self._key is None else self._key.metadata(self._secret, f"{_SERVICE}{method}")
        session = () if self._session is None else self._session.metadata()
        return (*self._who, *proof, *session, *trace_metadata())
