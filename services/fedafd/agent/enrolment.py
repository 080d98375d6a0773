"""What makes an enrolment repeatable: a random number of this agent, kept before the token is first shown.

The aggregator makes the credential of the token and this number. If its answer is lost, also with the process, the same
agent asks again and gets the same credential, and nobody else does.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

from fedafd.agent.files import write_atomically

__all__ = ["forget_enrolment", "nonce_of"]

_FILE = "enrolment.json"
_NONCE_BYTES = 32


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
