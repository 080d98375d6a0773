"""Settings of the identity provider, from FEDAFD_CONTROL_PLANE_OIDC__*."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from fedafd.control_plane.names import Name
from fedafd.domain.kinds import Role
from fedafd.domain.proxies import is_loopback
from fedafd.domain.secrets import plain_secret

__all__ = ["Grant", "OidcSettings", "checked_address"]


class Grant(BaseModel):
    """What a value of the claim opens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    federations: tuple[Name, ...] | None = Field(None, min_length=1)
    """None for all."""


def _written_short(value: Any) -> Any:
    return {"role": value} if isinstance(value, str) else value


class OidcSettings(BaseModel):
    """How people of a provider are let in. Which ones, the values of a claim of their tokens decide."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(description="Issuer of the provider, an https address, as its discovery document writes it.")
    client_id: str = Field(min_length=1, description="What the provider calls this control plane.")
    client_secret: SecretStr | None = Field(
        None, description="The client's secret at the provider; unset: a public client."
    )
    audience: str | None = Field(
        None,
        min_length=1,
        description="Audience that a bearer token on REST must name; unset: REST takes API keys alone.",
    )
    public_url: str | None = Field(
        None,
        description="Address of the dashboard as browsers see it; the provider must know `<it>/login/oidc/callback`."
        " Unset: the dashboard takes API keys alone.",
    )
    scopes: str = Field(
        "openid profile email", description="Scopes that a login asks for, separated by spaces; openid is needed."
    )
    name_claim: str = Field(
        "preferred_username", min_length=1, description="Claim that holds the name by which people see this person."
    )
    roles_claim: str = Field(
        "groups", min_length=1, description="Claim whose values give roles; dots lead into it (realm_access.roles)."
    )
    roles: dict[str, Annotated[Grant, BeforeValidator(_written_short)]] = Field(
        min_length=1,
        description="JSON: what a value of that claim opens, as a role, or as"
        ' {"role": "operator", "federations": ["lungs"]}.',
    )
    session_minutes: float = Field(60.0, gt=0, le=1440, description="How long a login lasts on the dashboard.")
    leeway_seconds: float = Field(
        30.0, ge=0, le=300, description="How far the provider's clock may differ from this one."
    )
    ca_file: Path | None = Field(
        None, description="PEM of the authorities that sign the provider's certificate; unset: the public ones."
    )

    @field_validator("issuer", "public_url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        return None if value is None else checked_address(value)

    @field_validator("client_secret")
    @classmethod
    def _none_is_empty(cls, value: SecretStr | None) -> SecretStr | None:
        plain = plain_secret(value.get_secret_value()) if value is not None else ""
        return SecretStr(plain) if plain else None

    @field_validator("scopes")
    @classmethod
    def _names_openid(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError(f"{value!r}: lacks openid, without which a login brings no identity")
        return value

    @property
    def redirect_uri(self) -> str:
        """Where the provider sends a browser back to."""
        return f"{(self.public_url or '').rstrip('/')}/login/oidc/callback"


def checked_address(value: str) -> str:
    """An https address, or on this machine an http one. Raises ValueError."""
    parts = urlsplit(value)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))):
        raise ValueError(f"{value[:200]!r}: must be an https address; http is for this machine alone")
    if parts.query or parts.fragment or parts.username:
        raise ValueError(f"{value[:200]!r}: must be an address without user, query or fragment")
    return value
