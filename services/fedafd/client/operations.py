"""What a control plane can be asked: method, path and the type of the answer. A test compares each with OpenAPI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import NoneType
from typing import Generic, TypeVar
from urllib.parse import quote

from fedafd.client import answers
from fedafd.domain.errors import ConfigurationError

__all__ = [
    "ALL_EVENTS",
    "CANCEL_ROUND",
    "CLIENT_DATA",
    "CLIENT_MODEL_ARCHIVE",
    "CLIENT_MODEL_TICKETS",
    "CONFIGURE_FEDERATION",
    "CREATE_FEDERATION",
    "CREATE_KEY",
    "DELETE_FEDERATION",
    "DRAIN",
    "DRAIN_STATE",
    "EVENTS",
    "EXCLUDE_CLIENT",
    "FORGET_CLIENT",
    "INVITE_AGAIN",
    "INVITE_CLIENT",
    "LIST_CLIENTS",
    "LIST_CLIENT_MODELS",
    "LIST_FEDERATIONS",
    "LIST_KEYS",
    "LIST_MODELS",
    "LIST_PARTICIPATIONS",
    "LIST_ROUNDS",
    "MODEL_ARCHIVE",
    "MODEL_TICKETS",
    "PROMOTE_MODEL",
    "PUSH_PUBLIC_SET",
    "PUSH_SHARD",
    "READMIT_CLIENT",
    "RESUME",
    "REVOKE_CLIENT",
    "REVOKE_KEY",
    "ROLL_BACK_MODEL",
    "ROTATE_KEY",
    "SEARCH_MODEL",
    "SHOW_CLIENT",
    "SHOW_CLIENT_MODEL",
    "SHOW_FEDERATION",
    "SHOW_MODEL",
    "SHOW_PUBLIC_SET",
    "SHOW_ROUND",
    "START_ROUNDS",
    "STATUS",
    "Listing",
    "Operation",
]

Answer = TypeVar("Answer")

_FIELD = re.compile(r"\{(\w+)\}")
_NO_NAMES = ("", ".", "..")
"""They would lead to another path."""


@dataclass(frozen=True)
class Operation(Generic[Answer]):
    """A request and its answer; fields of the path are in braces."""

    method: str
    path: str
    answer: type[Answer]

    @property
    def fields(self) -> frozenset[str]:
        """That the answer always has; none where it is no object."""
        return getattr(self.answer, "__required_keys__", frozenset())

    def filled(self, *parts: str | int) -> str:
        """The path with `parts` in the place of its fields, in their order. Raises ConfigurationError for no name."""
        return _filled(self.path, parts)


@dataclass(frozen=True)
class Listing(Generic[Answer]):
    """A list that comes in pages of `item`s."""

    path: str
    item: type[Answer]

    def filled(self, *parts: str | int) -> str:
        """As of Operation."""
        return _filled(self.path, parts)


def _filled(path: str, parts: tuple[str | int, ...]) -> str:
    fields = _FIELD.findall(path)
    if len(fields) != len(parts):
        raise TypeError(f"{path} takes {len(fields)} parts, got {len(parts)}")
    for field, part in zip(fields, parts, strict=True):
        if str(part) in _NO_NAMES:
            raise ConfigurationError(f"{field} {str(part)!r}: is no name; give its name")
    left = iter(parts)
    return _FIELD.sub(lambda _: quote(str(next(left)), safe=""), path)


_FEDERATION = "/federations/{federation}"
_PUBLIC_SET = f"{_FEDERATION}/public-set"
_CLIENT = f"{_FEDERATION}/clients/{{client}}"
_ROUND = f"{_FEDERATION}/rounds/{{number}}"
_MODEL = f"{_FEDERATION}/models/{{version}}"
_CLIENT_MODEL = f"{_CLIENT}/models/{{version}}"
_KEY = "/api-keys/{name}"

STATUS = Operation("GET", "/status", answers.Status)
DRAIN_STATE = Operation("GET", "/drain", answers.Drain)
DRAIN = Operation("PUT", "/drain", answers.Drain)
RESUME = Operation("DELETE", "/drain", answers.Drain)

LIST_KEYS = Listing("/api-keys", answers.ApiKey)
CREATE_KEY = Operation("POST", "/api-keys", answers.CreatedApiKey)
ROTATE_KEY = Operation("POST", f"{_KEY}/rotate", answers.CreatedApiKey)
REVOKE_KEY = Operation("DELETE", _KEY, answers.ApiKey)

ALL_EVENTS = Operation("GET", "/events", answers.EventPage)
EVENTS = Operation("GET", f"{_FEDERATION}/events", answers.EventPage)

LIST_FEDERATIONS = Listing("/federations", answers.Federation)
CREATE_FEDERATION = Operation("POST", "/federations", answers.Federation)
SHOW_FEDERATION = Operation("GET", _FEDERATION, answers.Federation)
CONFIGURE_FEDERATION = Operation("PUT", _FEDERATION, answers.Federation)
DELETE_FEDERATION = Operation("DELETE", _FEDERATION, answers.DeletedFederation)

SHOW_PUBLIC_SET = Operation("GET", _PUBLIC_SET, answers.PublicSet)
PUSH_PUBLIC_SET = Operation("PUT", _PUBLIC_SET, answers.PublicSet)
PUSH_SHARD = Operation("PUT", f"{_PUBLIC_SET}/shards/{{sha256}}", NoneType)

LIST_CLIENTS = Listing(f"{_FEDERATION}/clients", answers.Client)
INVITE_CLIENT = Operation("POST", f"{_FEDERATION}/clients", answers.InvitedClient)
INVITE_AGAIN = Operation("POST", f"{_CLIENT}/invitations", answers.InvitedClient)
SHOW_CLIENT = Operation("GET", _CLIENT, answers.Client)
REVOKE_CLIENT = Operation("DELETE", _CLIENT, answers.Client)
EXCLUDE_CLIENT = Operation("PUT", f"{_CLIENT}/exclusion", answers.Client)
READMIT_CLIENT = Operation("DELETE", f"{_CLIENT}/exclusion", answers.Client)
CLIENT_DATA = Operation("GET", f"{_CLIENT}/data", answers.ClientData)
FORGET_CLIENT = Operation("DELETE", f"{_CLIENT}/data", answers.ClientData)
LIST_PARTICIPATIONS = Listing(f"{_CLIENT}/participations", answers.PastParticipation)

LIST_ROUNDS = Listing(f"{_FEDERATION}/rounds", answers.Round)
START_ROUNDS = Operation("POST", f"{_FEDERATION}/rounds", answers.Rounds)
SHOW_ROUND = Operation("GET", _ROUND, answers.RoundDetails)
CANCEL_ROUND = Operation("POST", f"{_ROUND}/cancel", answers.RoundDetails)

LIST_MODELS = Listing(f"{_FEDERATION}/models", answers.ModelVersion)
SHOW_MODEL = Operation("GET", _MODEL, answers.ModelVersionDetails)
PROMOTE_MODEL = Operation("POST", f"{_MODEL}/promote", answers.ModelVersion)
ROLL_BACK_MODEL = Operation("POST", f"{_FEDERATION}/models/rollback", answers.ModelVersion)
SEARCH_MODEL = Operation("POST", f"{_MODEL}/search", answers.SearchAnswer)
MODEL_ARCHIVE = Operation("GET", f"{_MODEL}/archive", bytes)
MODEL_TICKETS = Operation("POST", f"{_MODEL}/tickets", answers.DownloadTickets)
LIST_CLIENT_MODELS = Listing(f"{_CLIENT}/models", answers.PersonalizedModel)
SHOW_CLIENT_MODEL = Operation("GET", _CLIENT_MODEL, answers.PersonalizedModelDetails)
CLIENT_MODEL_ARCHIVE = Operation("GET", f"{_CLIENT_MODEL}/archive", bytes)
CLIENT_MODEL_TICKETS = Operation("POST", f"{_CLIENT_MODEL}/tickets", answers.DownloadTickets)
