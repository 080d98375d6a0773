"""Sessions of the dashboard: a signed cookie that names an API key or a person, and the token of its forms.

The cookie holds no secret of the caller's. Each request looks the key up, so a session ends at once when its key is
revoked or expires, and with the logout, whoever has a copy of the cookie. It is signed with a secret that is derived
from the first admin's key, which all replicas are given, and from a random one in the database, so that neither alone
makes a session: not who kept that key after it was revoked, nor who reads the database. Where no such key is set the
first part is random, and sessions end with the process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from fedafd.domain.secrets import hash_secret

__all__ = ["SESSION_SECONDS", "Session", "SessionSigner"]

SESSION_SECONDS = 8 * 3600
"""From the login on; then one logs in anew."""


@dataclass(frozen=True)
class Session:
    """Whose it is and until when; `nonce` tells it from other sessions of the key."""

    key_id: str
    key_mark: str
    """Of the key's secret: a key that got another secret ends its sessions."""
    expires_at: int
    nonce: str
    person: str | None = None
    """Of a person what the identity provider told at the login; None for an API key."""

    def text(self) -> str:
        """As it is signed."""
        person = [] if self.person is None else [_encoded(self.person.encode())]
        return ".".join([self.key_id, self.key_mark, str(self.expires_at), self.nonce, *person])


class SessionSigner:
    """Makes cookies and reads them."""

    def __init__(self, secret: str | None) -> None:
        own = secret.encode() if secret else secrets.token_bytes(32)
        self._own = hmac.new(own, b"fedafd dashboard sessions", hashlib.sha256).digest()
        self._key = self._own

    def mix_in(self, shared: str) -> None:
        """Sign with this secret, too."""
        self._key = hmac.new(self._own, shared.encode(), hashlib.sha256).digest()

    def begin(self, key_id: str, key_hash: str, now: float | None = None) -> Session:
        """A new session of an API key."""
        until = int(now if now is not None else time.time()) + SESSION_SECONDS
        return Session(key_id, self.mark(key_hash), until, secrets.token_hex(16))

    def begin_of_person(self, person_id: str, mark: str, person: str, seconds: float) -> Session:
        """A new session of somebody whom the identity provider knows."""
        return Session(person_id, mark, int(time.time() + seconds), secrets.token_hex(16), person)

    def mark(self, key_hash: str) -> str:
        """What tells whether the key still has the secret that it had at the login."""
        return hash_secret(f"session of {key_hash}")[:16]

    def cookie(self, session: Session) -> str:
        """The session as the browser keeps it."""
        return self.seal("cookie", session.text())

    def read(self, cookie: str, now: float | None = None) -> Session | None:
        """The session of a cookie; None for one that is not of ours, was changed, or is over."""
        text = self.unseal("cookie", cookie)
        if text is None:
            return None
        key_id, mark, expires_at, nonce, *person = text.split(".")
        decoded = _decoded(person[0]) if person else None
        session = Session(key_id, mark, int(expires_at), nonce, None if decoded is None else decoded.decode())
        return session if session.expires_at > (now if now is not None else time.time()) else None

    def seal(self, kind: str, text: str) -> str:
        """A text for a cookie of that kind, signed."""
        return f"{_encoded(text.encode())}.{self._sign(f'{kind} {text}'.encode())}"

    def unseal(self, kind: str, cookie: str) -> str | None:
        """The text of a cookie of that kind; None for one that is not of ours or was changed."""
        encoded, _, signature = cookie.partition(".")
        text = _decoded(encoded)
        if text is None:
            return None
        signed = self._sign(f"{kind} ".encode() + text)
        return text.decode() if hmac.compare_digest(signed.encode(), signature.encode(errors="replace")) else None

    def form_token(self, session: Session) -> str:
        """What each form of the session's pages carries, and no other page can know."""
        return self._sign(b"form " + session.text().encode())

    def is_form_token(self, session: Session, given: str) -> bool:
        """Whether a form is of that session's pages."""
        return hmac.compare_digest(self.form_token(session).encode(), given.encode(errors="replace"))

    def _sign(self, text: bytes) -> str:
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
