"""Weighing: what stands between a modality's folds and its merges where clients' weights are capped.

A fold's outputs hold a sheet where weights are capped. A round that was planned or folded by a version without sheets
merges without a cap, as that version did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedafd.aggregator.step import COORDINATOR, Step
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import FoldOutputs, WeighInputs, WeighOutputs, merge_limit
from fedafd.domain.contributions import Contribution, contributions_of
from fedafd.domain.kinds import Modality, StageKind
from fedafd.domain.states import StageState
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.look_repository import ClientLook, PartLook, StageLook, write_contributions
from fedafd.persistence.stage_repository import add_stage

__all__ = ["Weighing", "note_contributions", "start_weighing", "weighing_of"]

Leaves = Mapping[int, FoldOutputs[ArtifactRef] | None]


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """Where it stands in one modality."""

    is_open: bool = False
    """Merges have to wait for it."""
    due: Mapping[int, ArtifactRef] = field(default_factory=dict)
    """Sheets by cohort position that can be weighed now."""
    limit: ArtifactRef | None = None
    """What merges cap weights by; None where they are not capped."""
    contributions: Mapping[int, Contribution] = field(default_factory=dict)
    """By cohort position; empty while nothing is known."""


def weighing_of(cohort_size: int, leaves: Leaves, stages: Sequence[StageLook], modality: Modality) -> Weighing:
    """`leaves`: as plan_merges takes them."""
    filled = {position: leaf for position, leaf in sorted(leaves.items()) if leaf is not None}
    sheets = {position: leaf.sheet for position, leaf in filled.items() if leaf.sheet is not None}
    name, merge = modality.value, StageKind.MERGE.value
    mine = [stage for stage in stages if stage.kind != StageKind.FOLD and stage.modality == name]
    plain = [s for s in mine if s.kind == merge and merge_limit(s.inputs or {}) is None]
    if len(sheets) < len(filled) or plain:
        return Weighing()
    if len(leaves) < cohort_size:
        return Weighing(is_open=True)
    if len(filled) < 2:
        return Weighing(contributions={position: Contribution(weight=1.0) for position in filled})
    weighed = next((stage for stage in mine if stage.kind == StageKind.WEIGH.value), None)
    if weighed is None:
        return Weighing(is_open=True, due=sheets)
    if weighed.state != StageState.DONE.value:
        return Weighing(is_open=True)
    limit = WeighOutputs.of(weighed.outputs or {}).limit
    return Weighing(limit=limit, contributions=contributions_of(weighed.metrics or {}))


async def start_weighing(step: Step, weighings: Mapping[Modality, Weighing]) -> bool:
    """Add the stages that are due; whether there are any."""
    added = False
    for modality, weighing in weighings.items():
        if weighing.due:
            inputs = WeighInputs(sheets=weighing.due).named()
            stage = await add_stage(step.session, step.row.id, StageKind.WEIGH, inputs, modality=modality)
            added = added or stage is not None
    return added


async def note_contributions(
    step: Step, cohort: Sequence[tuple[PartLook, ClientLook]], weighings: Mapping[Modality, Weighing]
) -> None:
    """Write with each part in the round what it counts for, as far as it is known, and tell who is left out."""
    written: list[tuple[str, dict[str, Any]]] = []
    by_modality = [(modality.value, weighing.contributions) for modality, weighing in weighings.items()]
    for part, client in cohort:
        position = part.position
        known = {name: by[position].as_json() for name, by in by_modality if position in by}
        if not known or known == part.contributions:
            continue
        for modality, contribution in known.items():
            if contribution["left_out"] and modality not in (part.contributions or {}):
                record_event(
                    step.session,
                    "participation.left_out",
                    federation_id=step.row.federation_id,
                    actor=COORDINATOR,
                    round=step.row.number,
                    client=client.name,
                    modality=modality,
                    similarity=contribution["similarity"],
                    agreement=contribution["agreement"],
                )
        written.append((part.id, known))
    await write_contributions(step.session, written)
