"""Deliveries that were checked become rows: the part in the round is settled, and its folds are announced.

Those that come at the same time are written in one transaction, as the many of a large round do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.progress import Unwritten
from fedafd.aggregator.together import Guard, Together
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import GLOBAL_REPRESENTATIONS, FoldInputs, SharedOutputs
from fedafd.domain.kinds import Modality, StageKind
from fedafd.persistence.artifact_repository import NewArtifact, add_artifacts
from fedafd.persistence.caller_address import asked_from, caller_address
from fedafd.persistence.caller_repository import CallingClient, WaitingPart
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.model_repository import add_files, has_personalized
from fedafd.persistence.models import PersonalizedModelRow, RoundRow, utc_now
from fedafd.persistence.settling_repository import deliver_participations
from fedafd.persistence.stage_repository import add_stages, fold_anew, stage_outputs

__all__ = ["Acceptances", "Checked"]

_MOST = 50
"""Deliveries of one transaction."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """A delivery that was checked and lies in the store."""

    client: CallingClient
    row: RoundRow
    participation: WaitingPart
    receipt: str
    content: ArtifactRef
    """The entry of the representations, or of a region's merged states."""
    modalities: tuple[Modality, ...]
    """Of what was delivered."""
    region_clients: Mapping[str, Any] | None
    """Of a region: whom it stands for, as it is stored."""
    num_clients: int | None
    """How many those are."""
    weights: ArtifactRef | None
    model_files: Mapping[str, ArtifactRef]
    metrics: Mapping[str, float]
    num_private_samples: int | None
    unwritten: Unwritten
    """Bytes and moments of the part in the round."""
    address: str | None = field(default_factory=caller_address)
    """From where it was delivered."""


class Acceptances:
    """Accepts deliveries, each once."""

    def __init__(self, database: Database, guard: Guard) -> None:
        self._database = database
        self._together: Together[Checked, datetime | None] = Together(self._accept_all, most=_MOST, guard=guard)

    async def accept(self, delivery: Checked) -> datetime | None:
        """When it was accepted; None if the round does not wait for it any more."""
        return await self._together.get(delivery)

    async def _accept_all(self, deliveries: Sequence[Checked]) -> Mapping[Checked, datetime | Exception | None]:
        async with self._database.transaction() as session:
            return await _accept(session, deliveries)


async def _accept(session: AsyncSession, deliveries: Sequence[Checked]) -> dict[Checked, datetime | Exception | None]:
    now = utc_now()
    first = {delivery.participation.id: delivery for delivery in reversed(deliveries)}
    waited_for = await deliver_participations(session, {key: _values(first[key]) for key in first}, now)
    counted = [one for one in deliveries if one.participation.id in waited_for and first[one.participation.id] is one]
    await add_artifacts(session, [artifact for delivery in counted for artifact in _artifacts(delivery)])
    by_round: defaultdict[str, list[Checked]] = defaultdict(list)
    for delivery in counted:
        by_round[delivery.row.id].append(delivery)
    for round_id, those in by_round.items():
        await _announce_folds(session, round_id, those)
    for delivery in counted:
        await _add_model(session, delivery)
        entry = delivery.content
        facts: dict[str, Any] = {} if delivery.num_clients is None else {"num_clients": delivery.num_clients}
        facts |= {"round": delivery.row.number, "sha256": entry["sha256"], "bytes": entry["size_bytes"]}
        with asked_from(delivery.address):
            actor, federation = f"client:{delivery.client.name}", delivery.row.federation_id
            record_event(session, "participation.delivered", federation_id=federation, actor=actor, **facts)
    return {delivery: now if delivery in counted else None for delivery in deliveries}


def _values(delivery: Checked) -> dict[str, Any]:
    """Of the part in the round."""
    return {
        "receipt": delivery.receipt,
        "bytes_up": delivery.unwritten.up,
        "bytes_down": delivery.unwritten.down,
        "trains_since": delivery.unwritten.trains_at,
        "sends_since": delivery.unwritten.sends_at,
        "metrics": dict(delivery.metrics),
        "num_private_samples": delivery.num_private_samples,
        "representations_sha256": delivery.content["sha256"],
        "region_clients": None if delivery.region_clients is None else dict(delivery.region_clients),
    }


def _artifacts(delivery: Checked) -> list[NewArtifact]:
    entries = [delivery.content] if delivery.weights is None else [delivery.content, delivery.weights]
    row = delivery.row
    return [NewArtifact(row.federation_id, entry, round_id=row.id, client_id=delivery.client.id) for entry in entries]


async def _announce_folds(session: AsyncSession, round_id: str, deliveries: Sequence[Checked]) -> None:
    prepared = await stage_outputs(session, round_id, StageKind.PREPARE) or {}
    folds: dict[tuple[Modality, int, int], dict[str, ArtifactRef]] = {}
    global_reps = SharedOutputs.of(prepared).global_representations
    for delivery in deliveries:
        if delivery.region_clients is None:
            inputs = FoldInputs(client_representations=delivery.content, global_representations=global_reps).named()
        else:
            inputs = {delivery.content["purpose"]: delivery.content, GLOBAL_REPRESENTATIONS: global_reps}
        for modality in delivery.modalities:
            folds[modality, 0, delivery.participation.position] = inputs
    for fold in await add_stages(session, round_id, StageKind.FOLD, folds):
        modality, _, position = fold
        await fold_anew(session, round_id, folds[fold], modality=modality, position=position)


async def _add_model(session: AsyncSession, delivery: Checked) -> None:
    client, row = delivery.client, delivery.row
    if not delivery.model_files or await has_personalized(session, client.id, row.number):
        return
    metrics = dict(delivery.metrics)
    model = PersonalizedModelRow(client_id=client.id, version=row.number, round_id=row.id, metrics=metrics)
    session.add(model)
    await session.flush()
    await add_files(session, model, dict(delivery.model_files))
