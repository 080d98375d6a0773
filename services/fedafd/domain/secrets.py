"""Random secrets, and the hash that is stored in their place."""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum

__all__ = ["SecretKind", "hash_secret", "new_secret"]


class SecretKind(StrEnum):
    """What a secret opens; its prefix, so that a leaked one is recognised."""

    API_KEY = "fedafd-key"
    ENROLMENT = "fedafd-enrol"
    CREDENTIAL = "fedafd-client"
    INTERNAL = "fedafd-internal"


def new_secret(kind: SecretKind) -> str:
    """A fresh secret of 256 random bits."""
    return f"{kind.value}.{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> str:
    """Lower-case hexadecimal SHA-256. Enough for random secrets; see docs/adr/0005."""
    return hashlib.sha256(secret.encode()).hexdigest()
