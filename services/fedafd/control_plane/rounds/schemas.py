"""JSON of rounds."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedafd.domain.kinds import Modality, ParticipantKind, StageKind
from fedafd.domain.leaving import LeaveReason
from fedafd.domain.states import ParticipationState, RoundState, StageState
from fedafd.persistence.models import ClientRow, ParticipationRow, RoundRow, StageRow

__all__ = [
    "Contribution",
    "Participation",
    "PastParticipation",
    "Round",
    "RoundDetails",
    "Rounds",
    "Stage",
    "StartRounds",
]


class StartRounds(BaseModel):
    """How many rounds to queue."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(1, ge=1, le=1000)


class Contribution(BaseModel):
    """What a part counts for in the round's ensemble of one modality."""

    weight: float = Field(description="Mean weight over the public samples, 0 to 1; all of a modality sum to 1.")
    similarity: float | None = Field(
        description="Mean cosine to the global representations; null for a region, and for one alone."
    )
    agreement: float | None = Field(
        description="How far what it adds to the global representations agrees with what the others add, at most 1; 0:"
        " with nobody; null for a region, and for one alone."
    )
    left_out: bool = Field(description="Left out of the ensemble: it sent little but the global representations.")


class Participation(BaseModel):
    """One client's or region's part in a round."""

    client: str
    kind: ParticipantKind
    num_clients: int | None = Field(description="Of a region's delivery: how many clients it stands for.")
    state: ParticipationState
    progress: float = Field(description="0 to 1.")
    activity: str | None
    reason: str | None = Field(description="Why it was dropped or rejected.")
    reason_code: LeaveReason | None = Field(description="Why it was dropped, as a code.")
    metrics: dict[str, float] | None
    bytes_up: int
    bytes_down: int
    trains_since: datetime | None = Field(description="When it had downloaded and began its training; null if unknown.")
    sends_since: datetime | None = Field(description="When its upload began; null if unknown.")
    settled_at: datetime | None = Field(description="When it was delivered, dropped or rejected.")
    contributions: dict[Modality, Contribution] | None = Field(
        description="By modality what it counts for in the ensemble; null until all have delivered, and where"
        " distillation.weight_cap is null."
    )

    @classmethod
    def of(cls, row: ParticipationRow, client: ClientRow) -> Participation:
        """From its rows."""
        return cls(**_part(row, client))


class PastParticipation(Participation):
    """One client's part in a round, as in the client's history."""

    round: int = Field(description="The round's number.")
    round_state: RoundState

    @classmethod
    def in_round(cls, row: ParticipationRow, client: ClientRow, of: RoundRow) -> PastParticipation:
        """From its rows."""
        return cls(**_part(row, client), round=of.number, round_state=RoundState(of.state))


class Stage(BaseModel):
    """A unit of a distiller's work in a round."""

    kind: StageKind
    modality: Modality | None = Field(description="Of a fold, weighing or merge.")
    state: StageState
    progress: float = Field(description="0 to 1.")
    activity: str | None
    worker: str | None
    failures: int = Field(description="Attempts that failed or went silent; the third fails the round.")
    reason: str | None
    announced_at: datetime = Field(description="When distillers could take it up.")
    finished_at: datetime | None

    @classmethod
    def of(cls, row: StageRow) -> Stage:
        """From its row."""
        return cls(
            kind=StageKind(row.kind),
            modality=Modality(row.modality) if row.modality else None,
            state=StageState(row.state),
            progress=row.progress,
            activity=row.activity,
            worker=row.worker,
            failures=row.failures,
            reason=row.reason,
            announced_at=row.created_at,
            finished_at=row.finished_at,
        )


class Round(BaseModel):
    """A communication round."""

    number: int
    state: RoundState
    reason: str | None = Field(description="Why it failed or was cancelled.")
    metrics: dict[str, float] | None = Field(description="Server metrics of a completed round.")
    base_version: int | None = Field(description="Global model version that it starts from; null for the first.")
    num_online: int | None = Field(
        description="Sites that were online when its cohort was drawn; null where all enrolled ones were invited."
    )
    public_set_sha256: str
    created_at: datetime
    started_at: datetime | None
    state_changed_at: datetime
    finished_at: datetime | None
    deadline_at: datetime | None

    @classmethod
    def of(cls, row: RoundRow) -> Round:
        """From its row."""
        return cls(**_fields(row))


class RoundDetails(Round):
    """A round with who takes part and what the distillers do."""

    collecting_since: datetime | None = Field(description="When it began to wait for its clients.")
    participations: list[Participation]
    stages: list[Stage]

    @classmethod
    def with_parts(
        cls,
        row: RoundRow,
        participations: list[Participation],
        stages: list[Stage],
        collecting_since: datetime | None,
    ) -> RoundDetails:
        """From its row and parts."""
        parts = {"participations": participations, "stages": stages, "collecting_since": collecting_since}
        return cls(**_fields(row), **parts)


class Rounds(BaseModel):
    """Rounds that were just queued."""

    items: list[Round]


def _part(row: ParticipationRow, client: ClientRow) -> dict[str, Any]:
    return {
        "client": client.name,
        "kind": ParticipantKind(client.kind),
        "num_clients": (row.region_clients or {}).get("total"),
        "state": ParticipationState(row.state),
        "progress": row.progress,
        "activity": row.activity,
        "reason": row.reason,
        "reason_code": LeaveReason(row.reason_code) if row.reason_code else None,
        "metrics": row.metrics,
        "bytes_up": row.bytes_up,
        "bytes_down": row.bytes_down,
        "trains_since": row.trains_since,
        "sends_since": row.sends_since,
        "settled_at": row.settled_at,
        "contributions": row.contributions,
    }


def _fields(row: RoundRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Round.model_fields}
