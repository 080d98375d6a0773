"""Enrolment, and what makes it repeatable: a random number of this agent, kept before the token is first shown.

The aggregator makes the credential of the token and this number. If its answer is lost, also with the process, the same
agent asks again and gets the same credential, and nobody else does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from pathlib import Path

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.files import write_atomically
from fedafd.agent.ledger import Ledger
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.config import AgentConfig
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.domain.secrets import plain_secret

__all__ = ["enrol", "forget_enrolment", "nonce_of"]

_FILE = "enrolment.json"
_NONCE_BYTES = 32


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
    token = plain_secret(token)
    connection = AggregatorConnection(config.aggregator, tls=config.tls, stop=stop)
    try:
        named = hashlib.sha256(token.encode()).hexdigest()
        ledger.record("enrolment", sha256=named, size_bytes=len(token.encode()), round_number=0)
        nonce = await asyncio.to_thread(nonce_of, token, state.root)
        credential = await connection.enrol(token, kind, nonce)
    finally:
        await connection.close()
    state.save_credential(credential)
    forget_enrolment(state.root)
    return credential


def nonce_of(token: str, state_dir: Path) -> bytes:
    """This agent's number for `token`: the kept one, else a new one, which is kept from here on."""
    path = state_dir / _FILE
    named = hashlib.sha256(token.encode()).hexdigest()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["token_sha256"] == named:
            return bytes.fromhex(kept["nonce"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    nonce = secrets.token_bytes(_NONCE_BYTES)
    write_atomically(path, json.dumps({"token_sha256": named, "nonce": nonce.hex()}).encode(), mode=0o600)
    return nonce


def forget_enrolment(state_dir: Path) -> None:
    """The credential is kept: the number has done its work."""
    (state_dir / _FILE).unlink(missing_ok=True)
