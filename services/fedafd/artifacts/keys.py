"""Every key of the object store: which object lies where. docs/artifacts.md shows them all."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "FEDERATIONS",
    "OF_AN_UPLOAD",
    "OF_A_FEDERATION",
    "OF_A_ROUND",
    "PUBLIC_SETS",
    "RoundObjects",
    "incoming_shard",
    "personalized_model_file",
    "public_set_manifest",
    "public_set_shard",
]

FEDERATIONS = "federations/"
"""Below it lies what rounds make and clients send."""
PUBLIC_SETS = "public-sets/"
OF_A_FEDERATION = re.compile(r"federations/(?P<federation>[^/]+)/.")
"""Matches the beginning of such a key, as the next two do."""
OF_A_ROUND = re.compile(r"federations/(?P<federation>[^/]+)/(rounds|models|clients/[^/]+/models)/(?P<number>\d+)/")
OF_AN_UPLOAD = re.compile(r"federations/(?P<federation>[^/]+)/rounds/\d+/chunks/(?P<upload>[^/]+)/")


def public_set_manifest(sha256: str) -> str:
    """The manifest of the public set that `sha256` names, which is this object's hash."""
    return public_set_shard(sha256, "manifest.json")


def public_set_shard(sha256: str, name: str) -> str:
    """A file of a public set."""
    return f"{PUBLIC_SETS}{sha256}/{name}"


def incoming_shard(federation_id: str, sha256: str) -> str:
    """A shard that was pushed to a federation, by its own hash, until a manifest names it there."""
    return f"{PUBLIC_SETS}incoming/{federation_id}/{sha256}"


def personalized_model_file(federation_id: str, client: str, version: int, path: str) -> str:
    """A file of a personalized model version that a site shared."""
    return f"{FEDERATIONS}{federation_id}/clients/{client}/models/{version}/{path}"


@dataclass(frozen=True)
class RoundObjects:
    """Where the objects of one round lie; a round's number is also the version of the model that it makes."""

    federation_id: str
    number: int

    @property
    def artifacts(self) -> str:
        """The prefix of everything but the model that the round publishes."""
        return f"{FEDERATIONS}{self.federation_id}/rounds/{self.number}/"

    @property
    def model(self) -> str:
        """The prefix of the published model's files."""
        return f"{FEDERATIONS}{self.federation_id}/models/{self.number}/"

    def artifact(self, name: str, sha256: str, *, client: str | None = None) -> str:
        """An artifact, by its name and hash; `client` where equal bytes of two clients are two artifacts."""
        return f"{self.artifacts}{name}{'' if client is None else f'/{client}'}/{sha256}"

    def arriving(self, upload_id: str) -> str:
        """A blob on its way up, which grows chunk by chunk."""
        return f"{self.artifacts}chunks/{upload_id}/bytes"

    def progress(self, binding: str) -> str:
        """The prefix of how far the stage came that `binding` names; not named anywhere, and gone with the round."""
        return f"{self.artifacts}progress/{binding}/"

    def model_file(self, path: str) -> str:
        """A file of the published model."""
        return f"{self.model}{path}"
