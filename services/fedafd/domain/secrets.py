"""Random secrets, the files that hold them, and the hash that is stored in their place."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.hashing import sha256_of

__all__ = [
    "MIN_SECRET_LENGTH",
    "LongSecret",
    "SecretKind",
    "check_length",
    "derived_secret",
    "hash_secret",
    "new_secret",
    "plain_secret",
    "read_secret_file",
    "token_and_pin",
]

MIN_SECRET_LENGTH = 16
"""Characters of a secret that people may choose. Shorter ones, and none at all, are guessed."""
_BOM = "\ufeff"


class SecretKind(StrEnum):
    """What a secret opens; its prefix, so that a leaked one is recognised."""

    API_KEY = "fedafd-key"
    ENROLMENT = "fedafd-enrol"
    CREDENTIAL = "fedafd-client"
    INTERNAL = "fedafd-internal"


def new_secret(kind: SecretKind) -> str:
    """A fresh secret of 256 random bits."""
    return f"{kind.value}.{secrets.token_urlsafe(32)}"


def derived_secret(kind: SecretKind, key: str, nonce: bytes) -> str:
    """The secret of 256 bits that `key`, itself a secret, and `nonce` make together, the same each time."""
    digest = hmac.new(key.encode(), f"{kind.value}:".encode() + nonce, hashlib.sha256).digest()
    return f"{kind.value}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def token_and_pin(invitation: str) -> tuple[str, str]:
    """An invitation's secret token, and what it says of the server's authority, empty if nothing."""
    kind, _, rest = plain_secret(invitation).partition(".")
    secret, _, pin = rest.partition(".")
    return (f"{kind}.{secret}", pin) if pin else (plain_secret(invitation), "")


def hash_secret(secret: str) -> str:
    """Lower-case hexadecimal SHA-256. Enough for random secrets; see docs/adr/0005."""
    return sha256_of(secret.encode())


def plain_secret(text: str) -> str:
    """The secret in what an editor saved or a terminal pasted: no byte order mark, no line end, no space around it."""
    return text.strip().strip(_BOM).strip()


def check_length(secret: str, what: str) -> str:
    """`secret`, if it is long enough to stand for a process or an admin. Raises ConfigurationError naming `what`."""
    try:
        return _long(SecretStr(secret)).get_secret_value()
    except ValueError as error:
        raise ConfigurationError(f"{what}: {error}") from None


def _long(secret: SecretStr) -> SecretStr:
    length = len(plain_secret(secret.get_secret_value()))
    if length < MIN_SECRET_LENGTH:
        fault = f"has {length} characters" if length else "is empty"
        raise ValueError(
            f"{fault}, and at least {MIN_SECRET_LENGTH} are needed, or it is guessed; make one with"
            " `openssl rand -hex 32`"
        )
    return secret


LongSecret = Annotated[SecretStr, AfterValidator(_long)]
"""A setting that is such a secret."""


def read_secret_file(path: Path, what: str) -> str:
    """The secret in a file, as Notepad or PowerShell may have saved it too; `what` names the setting in errors.

    Raises ConfigurationError for a file that cannot be read, is empty, or is no text.
    """
    path = path.expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{what} {path}: cannot be read: {error.strerror}") from error
    wide = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    try:
        secret = plain_secret(content.decode("utf-16" if wide else "utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} {path}: is not text; it must hold the secret and nothing else") from None
    if not secret:
        raise ConfigurationError(f"{what} {path}: is empty; put the secret in it")
    return secret
