"""Sessions of the dashboard: a signed cookie that names an API key, for some hours, and the token of its forms.

The cookie holds no secret of the caller's. Each request looks the key up, so a session ends at once when its key is
revoked or expires. It is signed with a secret that is derived from the first admin's key, which all replicas are given;
where no such key is set it is random, and sessions end with the process.
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

    def text(self) -> str:
        """As it is signed."""
        return f"{self.key_id}.{self.key_mark}.{self.expires_at}.{self.nonce}"


class SessionSigner:
    """Makes cookies and reads them."""

    def __init__(self, secret: str | None) -> None:
        own = secret.encode() if secret else secrets.token_bytes(32)
        self._key = hmac.new(own, b"fedafd dashboard sessions", hashlib.sha256).digest()

    def begin(self, key_id: str, key_hash: str, now: float | None = None) -> Session:
        """A new session of an API key."""
        until = int(now if now is not None else time.time()) + SESSION_SECONDS
        return Session(key_id, self.mark(key_hash), until, secrets.token_hex(16))

    def mark(self, key_hash: str) -> str:
        """What tells whether the key still has the secret that it had at the login."""
        return hash_secret(f"session of {key_hash}")[:16]

    def cookie(self, session: Session) -> str:
        """The session as the browser keeps it."""
        text = session.text().encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=") + "." + self._sign(b"cookie " + text)

    def read(self, cookie: str, now: float | None = None) -> Session | None:
        """The session of a cookie; None for one that is not of ours, was changed, or is over."""
        encoded, _, signature = cookie.partition(".")
        try:
            text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        if not hmac.compare_digest(self._sign(b"cookie " + text).encode(), signature.encode(errors="replace")):
            return None
        key_id, mark, expires_at, nonce = text.decode().split(".")
        session = Session(key_id, mark, int(expires_at), nonce)
        return session if session.expires_at > (now if now is not None else time.time()) else None

    def form_token(self, session: Session) -> str:
        """What each form of the session's pages carries, and no other page can know."""
        return self._sign(b"form " + session.text().encode())

    def is_form_token(self, session: Session, given: str) -> bool:
        """Whether a form is of that session's pages."""
        return hmac.compare_digest(self.form_token(session).encode(), given.encode(errors="replace"))

    def _sign(self, text: bytes) -> str:
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
