"""What the control plane answers, as types. A test compares them with the OpenAPI document, field by field.

Times are ISO 8601 texts, states the words of `fedafd.domain.states`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from fedafd.domain.kinds import Modality, ParticipantKind, Role, StageKind
from fedafd.domain.leaving import LeaveReason
from fedafd.domain.states import ParticipationState, RoundState, StageState

__all__ = [
    "ApiKey",
    "Client",
    "ClientData",
    "Contribution",
    "CreatedApiKey",
    "DeletedFederation",
    "DownloadTicket",
    "DownloadTickets",
    "Drain",
    "Event",
    "EventPage",
    "Federation",
    "Finding",
    "ForgottenData",
    "InvitedClient",
    "ModelFile",
    "ModelVersion",
    "ModelVersionDetails",
    "NumSamples",
    "Participation",
    "PastParticipation",
    "PersonalizedModel",
    "PersonalizedModelDetails",
    "PublicSet",
    "PulledModel",
    "Round",
    "RoundDetails",
    "Rounds",
    "RunningRound",
    "SearchAnswer",
    "SearchHit",
    "Stage",
    "Status",
]


class Federation(TypedDict):
    """A federation with its whole configuration."""

    name: str
    config: dict[str, Any]
    config_version: int
    public_set_sha256: str | None
    current_version: int | None
    follows: str | None
    created_at: str


class DeletedFederation(TypedDict):
    """What went with a federation, or would go."""

    name: str
    deleted: bool
    clients: int
    rounds: int
    versions: int
    personalized_models: int
    size_bytes: int


class Client(TypedDict):
    """A site of a federation."""

    name: str
    kind: ParticipantKind
    max_clients: int | None
    state: str
    """invited, enrolled or revoked."""
    online: bool
    activity: str | None
    agent_version: str | None
    invited_at: str
    enrolled_at: str | None
    last_seen_at: str | None
    other_agent_refused_at: str | None
    revoked_at: str | None
    excluded_from_round: int | None
    exclusion_reason: str | None
    token_expires_at: str | None


class InvitedClient(Client):
    """An invitation: the only answer that holds the token."""

    enrolment_token: str


class ForgottenData(TypedDict):
    """What of a client's was deleted."""

    objects: int
    size_bytes: int
    representations: int
    weights: int
    folds: int
    personalized_models: int
    rounds_with_metrics: int
    sha256: list[str]
    sha256_of_all: str


class ClientData(TypedDict):
    """Where the deletion of what a client sent stands."""

    client: str
    requested_at: str | None
    waits_for_round: int | None
    forgotten_at: str | None
    receipt: ForgottenData | None


class NumSamples(TypedDict):
    """Samples of a public set's splits."""

    train: int
    val: int
    test: int


class PublicSet(TypedDict):
    """A federation's public set."""

    sha256: str
    num_samples: NumSamples


class Round(TypedDict):
    """A round, as in a list."""

    number: int
    state: RoundState
    reason: str | None
    base_version: int | None
    num_online: int | None
    public_set_sha256: str
    metrics: dict[str, float] | None
    created_at: str
    started_at: str | None
    state_changed_at: str
    deadline_at: str | None
    finished_at: str | None


class Contribution(TypedDict):
    """What a client counts for in the ensemble of one modality."""

    weight: float
    similarity: float | None
    agreement: float | None
    left_out: bool


class Participation(TypedDict):
    """One client's part in a round."""

    client: str
    kind: ParticipantKind
    num_clients: int | None
    state: ParticipationState
    activity: str | None
    progress: float
    reason: str | None
    reason_code: LeaveReason | None
    metrics: dict[str, float] | None
    bytes_up: int
    bytes_down: int
    trains_since: str | None
    """When it had downloaded and began its training."""
    sends_since: str | None
    settled_at: str | None
    contributions: dict[str, Contribution] | None


class PastParticipation(Participation):
    """One client's part in a round, as in the client's history."""

    round: int
    round_state: RoundState


class Stage(TypedDict):
    """A unit of a distiller's work in a round."""

    kind: StageKind
    modality: Modality | None
    state: StageState
    activity: str | None
    progress: float
    worker: str | None
    failures: int
    reason: str | None
    announced_at: str
    finished_at: str | None


class RoundDetails(Round):
    """A round with its clients and stages."""

    collecting_since: str | None
    participations: list[Participation]
    stages: list[Stage]


class Rounds(TypedDict):
    """The rounds that were started."""

    items: list[Round]


class ModelFile(TypedDict):
    """A file of a model folder."""

    path: str
    sha256: str
    size_bytes: int


class ModelVersion(TypedDict):
    """A version of the global model."""

    version: int
    parent_version: int | None
    current: bool
    metrics: dict[str, float]
    created_at: str
    promoted_at: str | None
    has_state: bool
    has_files: bool


class ModelVersionDetails(ModelVersion):
    """A version of the global model with its files."""

    files: list[ModelFile]


class PersonalizedModel(TypedDict):
    """A version of a client's personalized model."""

    version: int
    metrics: dict[str, float]
    created_at: str
    has_files: bool


class PersonalizedModelDetails(PersonalizedModel):
    """A version of a client's personalized model with its files."""

    files: list[ModelFile]


class PulledModel(TypedDict):
    """A model version, global or personalized, with its files."""

    version: int
    metrics: dict[str, float]
    created_at: str
    has_files: bool
    files: list[ModelFile]


class DownloadTicket(ModelFile):
    """A file of a model folder, and where the object store gives it away for a while."""

    url: str


class DownloadTickets(TypedDict):
    """Tickets for all files of a model folder."""

    expires_at: str
    items: list[DownloadTicket]


class SearchHit(TypedDict):
    """A public picture with its captions, or a public caption with the first picture that has it."""

    id: str
    split: str
    likeness: float
    captions: list[str]
    thumbnail: str | None
    """A small JPEG in base64."""


class SearchAnswer(TypedDict):
    """What of a version's public set is nearest to a caption or a picture, or how far that is prepared."""

    version: int
    state: str
    """ready or preparing."""
    public_set_sha256: str
    num_pictures: int
    num_searched: int
    step: str | None
    """While preparing: loading or embedding."""
    done: int
    total: int
    hits: list[SearchHit]


class Event(TypedDict):
    """An entry of the audit log."""

    id: int
    at: str
    federation: str | None
    kind: str
    actor: str
    address: str | None
    data: dict[str, Any]
    hash: str | None


class EventPage(TypedDict):
    """A page of the audit log."""

    items: list[Event]
    next_cursor: str | None
    end_cursor: str | None


class ApiKey(TypedDict):
    """An API key, without its secret."""

    name: str
    role: Role
    federations: list[str] | None
    active: bool
    created_at: str
    created_by: str | None
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    previous_secret_until: str | None
    previous_secret_used_at: str | None


class CreatedApiKey(ApiKey):
    """The only answer that holds the secret."""

    secret: str


class RunningRound(TypedDict):
    """A round that has started and is not over."""

    federation: str
    number: int
    state: RoundState


class Drain(TypedDict):
    """Whether queued rounds are held, and what still runs."""

    draining: bool
    since: str | None
    actor: str | None
    reason: str | None
    running: list[RunningRound]


class Finding(TypedDict):
    """What waits for what, since when, and what to do."""

    level: str
    """trouble, waiting or fine."""
    cause: str
    federation: str | None
    round: int | None
    words: str
    since: str | None
    remedy: str


class Status(TypedDict):
    """All findings, the worst first."""

    level: str
    at: str
    summary: str
    findings: list[Finding]
