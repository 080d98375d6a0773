"""What the provider tells of itself: its discovery document and its public keys, remembered for a while.

A provider that is away stops nothing for a day: what it told before goes on to count. A key that is new, as after a
rotation, is asked for at once, but not more often than every few seconds, whatever callers send. While that is done,
those whose keys are known do not wait: anybody may send a token with a made-up key, and a provider may hang.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
import jwt
from pydantic import BaseModel, ValidationError, field_validator

from fedafd.control_plane.oidc.settings import OidcSettings, checked_address
from fedafd.domain.errors import ConfigurationError, IdentityProviderUnavailableError, UnauthenticatedError
from fedafd.telemetry.logging import get_logger, is_configured

__all__ = ["ALGORITHMS", "Metadata", "Provider"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key. With HS256 and its like, whoever verifies could sign."""
_SECONDS = 5.0
_FRESH_SECONDS = 3600.0
_STALE_SECONDS = 86400.0
_AGAIN_SECONDS = 10.0
_log = get_logger(__name__)


class Metadata(BaseModel):
    """Of the discovery document what is used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: Sequence[str] = ("client_secret_basic",)

    @field_validator("authorization_endpoint", "token_endpoint", "jwks_uri")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        checked_address(value.partition("?")[0])
        return value


@dataclass(frozen=True)
class _Discovery:
    metadata: Metadata
    keys: tuple[jwt.PyJWK, ...]
    at: float


class Provider:
    """An identity provider, asked over HTTP."""

    def __init__(
        self,
        settings: OidcSettings,
        *,
        fresh_seconds: float = _FRESH_SECONDS,
        stale_seconds: float = _STALE_SECONDS,
        again_seconds: float = _AGAIN_SECONDS,
    ) -> None:
        self._settings = settings
        self._fresh, self._stale, self._again = fresh_seconds, stale_seconds, again_seconds
        self._discovery: _Discovery | None = None
        self._asked_at = float("-inf")
        self._failure: IdentityProviderUnavailableError | None = None
        self._lock = asyncio.Lock()
        self._tls = _tls(settings)

    async def metadata(self) -> Metadata:
        """The discovery document. Raises IdentityProviderUnavailableError."""
        return (await self._known()).metadata

    async def key(self, kid: str | None, algorithm: str) -> Any:
        """The public key with that id, or the only one that fits where none is named.

        Raises UnauthenticatedError for one that the provider has not, IdentityProviderUnavailableError.
        """
        fitting = _fitting((await self._known()).keys, kid, algorithm)
        if fitting is None:
            fitting = _fitting((await self._known(newer=True)).keys, kid, algorithm)
        if fitting is None:
            raise UnauthenticatedError("the token is signed with a key that the identity provider does not show")
        return fitting.key

    async def ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        """One request to the provider. Raises IdentityProviderUnavailableError where no answer comes."""
        try:
            async with httpx.AsyncClient(timeout=_SECONDS, verify=self._tls) as client:
                answer = await client.request(method, url, **options)
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(f"{url}: {str(error) or type(error).__name__}") from None
        if answer.status_code >= 500 or answer.status_code == 429:
            raise self._away(f"{url}: answers {answer.status_code}")
        return answer

    async def _known(self, *, newer: bool = False) -> _Discovery:
        """What it told within the hour; with `newer` asked again, unless that was done a moment ago."""
        before = self._discovery
        if before is not None and not newer:
            age = monotonic() - before.at
            if age < self._fresh or (age < self._stale and self._lock.locked()):
                return before
        async with self._lock:
            now, known = monotonic(), self._discovery
            is_fresh = known is not None and now - known.at < self._fresh
            if known is not None and known is not before:
                return known  # somebody else asked meanwhile
            if known is not None and is_fresh and not newer:
                return known
            if now - self._asked_at >= self._again:
                self._asked_at = now
                try:
                    self._discovery, self._failure = await self._asked(now), None
                    return self._discovery
                except IdentityProviderUnavailableError as error:
                    self._failure = error
                    if is_configured():  # `fedafd doctor` says it in its own answer
                        _log.warning("oidc.provider_unavailable", reason=str(error))
            if known is None or now - known.at >= self._stale or (newer and self._failure is not None):
                raise self._failure or self._away("it was asked a moment ago")
            return known

    async def _asked(self, now: float) -> _Discovery:
        address = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            metadata = Metadata.model_validate(await self._json(address))
        except ValidationError as error:
            first = error.errors()[0]
            words = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise self._away(f"{address}: is no discovery document: {words}") from None
        if metadata.issuer != self._settings.issuer:
            raise self._away(f"{address}: is of issuer {metadata.issuer[:200]!r}, and the settings name another")
        keys = await self._json(metadata.jwks_uri)
        fresh_keys = tuple(_keys(keys.get("keys")))
        if not fresh_keys:
            raise self._away(f"{metadata.jwks_uri}: has no key that is for signatures")
        return _Discovery(metadata, fresh_keys, now)

    async def _json(self, url: str) -> Mapping[str, Any]:
        answer = await self.ask("GET", url)
        try:
            content = answer.json() if answer.is_success else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise self._away(f"{url}: answers {answer.status_code}, and no JSON object")
        return content

    def _away(self, words: str) -> IdentityProviderUnavailableError:
        return IdentityProviderUnavailableError(
            f"the identity provider cannot be used: {words}; API keys go on working, try again later"
        )


def _keys(listed: Any) -> list[jwt.PyJWK]:
    """The public keys for signatures, without those that this program does not know."""
    keys = []
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict) or item.get("kty") not in ("RSA", "EC", "OKP") or item.get("use", "sig") != "sig":
            continue
        try:
            keys.append(jwt.PyJWK.from_dict({name: value for name, value in item.items() if name != "d"}))
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
    return keys


def _fitting(keys: Sequence[jwt.PyJWK], kid: str | None, algorithm: str) -> jwt.PyJWK | None:
    kinds = {"R": "RSA", "P": "RSA", "E": "OKP" if algorithm == "EdDSA" else "EC"}
    fit = [key for key in keys if key.key_type == kinds[algorithm[0]] and key.key_id in (kid, kid or key.key_id)]
    return fit[0] if fit and (kid is not None or len(fit) == 1) else None


def _tls(settings: OidcSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if settings.ca_file is not None:
            context.load_verify_locations(settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        name = "FEDAFD_CONTROL_PLANE_OIDC__CA_FILE"
        raise ConfigurationError(f"{name} {settings.ca_file}: cannot be read as PEM: {error}") from None
    return context
