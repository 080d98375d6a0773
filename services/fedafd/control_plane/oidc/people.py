"""Who a token tells of, and what that person may do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from fedafd.control_plane.oidc.provider import ALGORITHMS, Provider
from fedafd.control_plane.oidc.settings import Grant, OidcSettings
from fedafd.domain.errors import ForbiddenError, UnauthenticatedError
from fedafd.domain.kinds import Role
from fedafd.domain.plain_text import plain_text
from fedafd.domain.secrets import hash_secret

__all__ = ["People", "Person", "is_token"]

_RANK = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
_LONGEST_NAME = 80
_LONGEST_TOKEN = 16_384


def is_token(secret: str) -> bool:
    """Whether it is written as a JSON web token is, which no secret of ours is."""
    return secret.startswith("eyJ") and secret.count(".") == 2


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody whom the provider knows."""

    id: str
    """Made of issuer and subject: the same for one person, and nobody else's."""
    name: str
    """As the provider writes it; two persons may have the same."""
    subject: str = ""
    """The provider's name for the person; empty where a session tells of it."""
    values: tuple[int, ...]
    """Which of the settings' roles the person has, by their positions."""
    role: Role
    federations: frozenset[str] | None
    """None for all."""
    expires_at: float = field(default=0.0, compare=False)
    """Of the token, in seconds since the epoch."""


class People:
    """Tells persons by their tokens."""

    def __init__(self, settings: OidcSettings, provider: Provider | None = None) -> None:
        self.settings = settings
        self.provider = provider or Provider(settings)

    async def of_bearer(self, token: str) -> Person:
        """Whose bearer token this is. Raises UnauthenticatedError, ForbiddenError without a role, and where the
        provider is away and its keys are not known IdentityProviderUnavailableError.
        """
        if self.settings.audience is None:
            raise UnauthenticatedError("this control plane takes API keys, and no tokens of an identity provider")
        return self.of_claims(await self.claims(token, self.settings.audience))

    async def claims(self, token: str, audience: str) -> Mapping[str, Any]:
        """What a token says, if the provider signed it for the audience, and its time is now.

        Raises UnauthenticatedError, IdentityProviderUnavailableError.
        """
        if len(token) > _LONGEST_TOKEN:
            raise UnauthenticatedError(f"the token is longer than {_LONGEST_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS:
                raise UnauthenticatedError(f"the token is signed with {str(algorithm)[:20]!r}, which is not taken")
            return jwt.decode(
                token,
                await self.provider.key(kid, algorithm),
                algorithms=[algorithm],
                audience=audience,
                issuer=self.settings.issuer,
                leeway=self.settings.leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the token has expired; get another one from the identity provider") from None
        except jwt.ImmatureSignatureError:
            raise UnauthenticatedError("the token is not good yet; compare the clocks here and there") from None
        except jwt.InvalidAudienceError:
            raise UnauthenticatedError(f"the token is not for {audience!r}; ask the provider for one that is") from None
        except jwt.InvalidIssuerError:
            raise UnauthenticatedError(f"the token is not of {self.settings.issuer}") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise UnauthenticatedError("the token is not one that the identity provider signed") from None

    def of_claims(self, claims: Mapping[str, Any]) -> Person:
        """The person of a token that was checked. Raises ForbiddenError for one who has no role here."""
        subject = str(claims["sub"])
        name = claims.get(self.settings.name_claim) or claims.get("email")
        shown = plain_text(name if isinstance(name, str) else subject).strip()[:_LONGEST_NAME] or subject[:8]
        has = _values(claims, self.settings.roles_claim)
        positions = tuple(position for position, value in enumerate(self.settings.roles) if value in has)
        person = self._person(hash_secret(f"{self.settings.issuer} {subject}")[:32], shown, positions)
        if person is None:
            raise ForbiddenError(
                f"{shown}: is known, and has no role here: none of the values of {self.settings.roles_claim!r} in the"
                " token is one that the control plane's settings name; ask an admin"
            )
        expires_at = float(claims["exp"]) + self.settings.leeway_seconds
        return Person(**{**person.__dict__, "subject": subject[:200], "expires_at": expires_at})

    def of_session(self, person_id: str, text: str) -> Person | None:
        """The person whom a session of the dashboard tells of, as `for_session` wrote it."""
        try:
            name, positions = json.loads(text)
            return self._person(person_id, name, tuple(positions))
        except (ValueError, TypeError):
            return None

    @staticmethod
    def for_session(person: Person) -> str:
        """What a session has to hold of the person."""
        return json.dumps([person.name, person.values])

    @property
    def mark(self) -> str:
        """Changes with the provider and with the roles: sessions from before end."""
        what = self.settings.model_dump_json(include={"issuer", "client_id", "roles_claim", "roles"})
        return hash_secret(what)[:16]

    def _person(self, person_id: str, name: str, positions: tuple[int, ...]) -> Person | None:
        """With the highest of the roles; the federations of those that give it add up."""
        grants = [_at(self.settings.roles, position) for position in positions]
        if not grants:
            return None
        role = max((grant.role for grant in grants), key=_RANK.index)
        scopes = [grant.federations for grant in grants if grant.role is role]
        only = None if None in scopes else frozenset(name for scope in scopes for name in scope or ())
        return Person(id=person_id, name=name, values=positions, role=role, federations=only)


def _at(roles: Mapping[str, Grant], position: int) -> Grant:
    return list(roles.values())[position]


def _values(claims: Mapping[str, Any], path: str) -> set[str]:
    """The claim's values: of that name, or below, of a list or of a single text."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    listed = value if isinstance(value, list) else [value]
    return {item for item in listed if isinstance(item, str)}
