"""A login by authorization code with PKCE (RFC 6749, RFC 7636, OpenID Connect Core 3.1).

What a login began with lies in a signed cookie of the browser, so that any replica can end it: `state` binds the
provider's answer to this browser, `nonce` the token to this login, and the verifier the code to whoever asked for it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from base64 import b64encode, urlsafe_b64encode
from collections import OrderedDict
from dataclasses import asdict, dataclass
from urllib.parse import quote, urlencode

from fedafd.control_plane.oidc.people import People, Person
from fedafd.control_plane.oidc.provider import Metadata
from fedafd.domain.errors import UnauthenticatedError
from fedafd.domain.plain_text import plain_text

__all__ = ["LOGIN_SECONDS", "Begun", "Logins"]

LOGIN_SECONDS = 600
"""From the first page of the provider to its answer."""
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class Begun:
    """A login that waits for the provider's answer."""

    state: str
    nonce: str
    verifier: str
    back: str
    """Where to go then, on this dashboard."""
    until: float

    def text(self) -> str:
        """As a cookie holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> Begun:
        """From what `text` made."""
        return cls(**json.loads(text))


class Logins:
    """Begins logins and ends them, each once."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._settings = people.settings
        self._ended: OrderedDict[str, float] = OrderedDict()
        """States whose login ended here; the provider takes each code once in any case."""

    async def begin(self, back: str) -> tuple[Begun, str]:
        """A login, and the address at the provider to go to. Raises IdentityProviderUnavailableError."""
        metadata = await self._people.provider.metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        begun = Begun(state, nonce, verifier, back, time.time() + LOGIN_SECONDS)
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_uri,
            "scope": self._settings.scopes,
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": _challenge(begun.verifier),
            "code_challenge_method": "S256",
        }
        endpoint = metadata.authorization_endpoint
        return begun, f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def end(self, begun: Begun | None, state: str, code: str, issuer: str | None, error: str) -> Person:
        """Who logged in. `issuer` and `error` are as the provider's answer has them, if it does.

        Raises UnauthenticatedError, ForbiddenError for one without a role, IdentityProviderUnavailableError.
        """
        if begun is None or begun.until < time.time():
            raise UnauthenticatedError("this login was not begun in this browser, or too long ago; begin again")
        if not hmac.compare_digest(begun.state.encode(), state.encode(errors="replace")):
            raise UnauthenticatedError("the answer is to another login (state); begin again")
        if begun.state in self._ended:
            raise UnauthenticatedError("this login has ended before (state); begin again")
        self._remember(begun)
        if issuer is not None and issuer != self._settings.issuer:
            raise UnauthenticatedError("the answer is of another identity provider (iss); begin again")
        if error or not code:
            words = plain_text(error)[:60] or "it gave no code"
            raise UnauthenticatedError(f"the identity provider did not let you in: {words}")
        token = await self._exchange(await self._people.provider.metadata(), code, begun.verifier)
        claims = await self._people.claims(token, self._settings.client_id)
        nonce, party = claims.get("nonce"), claims.get("azp", self._settings.client_id)
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), begun.nonce.encode()):
            raise UnauthenticatedError("the token is of another login (nonce); begin again")
        if party != self._settings.client_id:
            raise UnauthenticatedError("the token was made for another party (azp); begin again")
        return self._people.of_claims(claims)

    async def _exchange(self, metadata: Metadata, code: str, verifier: str) -> str:
        """The identity token for a code."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._settings.redirect_uri}
        form["code_verifier"] = verifier
        headers = {"Accept": "application/json"}
        client, secret = self._settings.client_id, self._settings.client_secret
        if secret is None:
            form["client_id"] = client
        elif "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            pair = f"{quote(client, safe='')}:{quote(secret.get_secret_value(), safe='')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client, "client_secret": secret.get_secret_value()}
        answer = await self._people.provider.ask("POST", metadata.token_endpoint, data=form, headers=headers)
        try:
            content = answer.json()
        except ValueError:
            content = None
        values = content if isinstance(content, dict) else {}
        token = values.get("id_token")
        if not answer.is_success or not isinstance(token, str):
            words = plain_text(str(values.get("error", f"status {answer.status_code}")))[:60]
            raise UnauthenticatedError(f"the identity provider gave no identity for the code: {words}; begin again")
        return token

    def _remember(self, begun: Begun) -> None:
        self._ended[begun.state] = begun.until
        while len(self._ended) > _MOST_REMEMBERED or next(iter(self._ended.values())) < time.time():
            self._ended.popitem(last=False)


def _challenge(verifier: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
