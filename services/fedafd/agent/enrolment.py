"""Enrolment, and what makes it repeatable: a random number and a key, kept before the token is first shown.

The aggregator makes the credential of the token and the number, and binds it to the key. If its answer is lost, also
with the process, the same agent asks again and gets the same credential, and nobody else does. The key never leaves.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import NamedTuple

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.files import write_atomically
from fedafd.agent.ledger import Ledger
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.config import AgentConfig
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.domain.secrets import token_and_pin
from fedafd.rpc.client_key import ClientKey

__all__ = ["EnrolmentDraft", "draft_of", "enrol", "forget_enrolment"]

_FILE = "enrolment.json"
_NONCE_BYTES = 32


class EnrolmentDraft(NamedTuple):
    """What an agent made for one token."""

    nonce: bytes
    key: ClientKey


async def enrol(
    config: AgentConfig | RegionConfig,
    token: str,
    kind: ClientKind | ParticipantKind,
    *,
    state: StateDirectory,
    ledger: Ledger,
    stop: asyncio.Event,
) -> Credential:
    """Show the token once it is noted in the ledger; the credential, kept in the state folder.

    Raises what AggregatorConnection.enrol raises.
    """
    token, _ = token_and_pin(token)
    connection = AggregatorConnection(config.aggregator, tls=config.tls, stop=stop)
    try:
        named = sha256_of(token.encode())
        ledger.record("enrolment", sha256=named, size_bytes=len(token.encode()), round_number=0)
        draft = await asyncio.to_thread(draft_of, token, state.root)
        credential = await connection.enrol(token, kind, draft.nonce, draft.key)
    finally:
        await connection.close()
    state.save_credential(credential)
    forget_enrolment(state.root)
    return credential


def draft_of(token: str, state_dir: Path) -> EnrolmentDraft:
    """This agent's number and key for `token`: the kept ones, else new ones, which are kept from here on."""
    path = state_dir / _FILE
    named = sha256_of(token.encode())
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["token_sha256"] == named:
            return EnrolmentDraft(bytes.fromhex(kept["nonce"]), ClientKey(kept["key"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigurationError):
        pass
    draft = EnrolmentDraft(secrets.token_bytes(_NONCE_BYTES), ClientKey())
    content = {"token_sha256": named, "nonce": draft.nonce.hex(), "key": draft.key.pem()}
    write_atomically(path, json.dumps(content).encode(), mode=0o600)
    return draft


def forget_enrolment(state_dir: Path) -> None:
    """The credential is kept, with the key: the draft has done its work."""
    (state_dir / _FILE).unlink(missing_ok=True)
