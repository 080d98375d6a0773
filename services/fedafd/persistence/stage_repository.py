"""Stages of distiller work and the outbox that announces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, case, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.errors import NotFoundError, StageLostError
from fedafd.domain.kinds import Modality, StageKind
from fedafd.domain.states import StageState
from fedafd.persistence.database import affected_rows
from fedafd.persistence.look_repository import StageLook
from fedafd.persistence.models import ArtifactRow, OutboxRow, RoundRow, StageRow, utc_now

__all__ = [
    "add_stage",
    "add_stages",
    "announce_again",
    "announce_pending",
    "cancel_stages",
    "claim_companions",
    "claim_row",
    "claim_stage",
    "fold_anew",
    "forgive_strike",
    "free_stage",
    "get_stage",
    "get_stages",
    "has_open_folds",
    "list_stages",
    "maker_of",
    "next_stage",
    "note_stage_progress",
    "renew_companions",
    "renew_stage",
    "settle_stage",
    "stage_outputs",
]

_ANEW = {"populate_existing": True}
_STAGES_OF = select(StageRow).where(StageRow.id.in_(bindparam("ids", expanding=True)))
_ROUNDS_OF = select(RoundRow).where(RoundRow.id.in_(bindparam("ids", expanding=True)))
_NODES = select(StageRow.modality, StageRow.level, StageRow.position).where(
    StageRow.round_id == bindparam("round_id"),
    StageRow.kind == bindparam("kind"),
    StageRow.position.in_(bindparam("positions", expanding=True)),
)
_OPEN = (StageState.PENDING.value, StageState.RUNNING.value)
_GOING_ON = [kind.value for kind in (StageKind.WEIGH, StageKind.MERGE, StageKind.DISTIL, StageKind.EVALUATE)]
_OF_ROUND = and_(
    StageRow.round_id == bindparam("round_id"),
    StageRow.kind.in_(bindparam("kinds", expanding=True)),
    StageRow.id != bindparam("but"),
)
_MINE = and_(StageRow.state == StageState.RUNNING.value, StageRow.worker == bindparam("by"))
_OWN = select(StageRow).where(_OF_ROUND, _MINE).order_by(StageRow.created_at, StageRow.id)
_OWN_IDS = select(StageRow.id).where(_OF_ROUND, _MINE)
_WAITING = (
    select(StageRow)
    .where(_OF_ROUND, StageRow.state == StageState.PENDING.value)
    .order_by(StageRow.created_at, StageRow.id)
    .limit(bindparam("most"))
    # What another distiller is claiming at this moment is left to it.
    .with_for_update(skip_locked=True)
)
_OPEN_FOLD = (
    select(StageRow.id)
    .where(
        StageRow.round_id == bindparam("round_id"),
        StageRow.kind == StageKind.FOLD.value,
        StageRow.state.in_(_OPEN),
    )
    .limit(1)
)
_CLAIMED = {
    "state": StageState.RUNNING.value,
    "attempt": StageRow.attempt + 1,
    "worker": bindparam("by"),
    "last_progress_at": bindparam("now"),
    "alive_at": bindparam("now"),
    "progress": 0.0,
    "activity": None,
}
_CLAIM = (
    update(StageRow)
    .where(
        StageRow.id == bindparam("of"),
        StageRow.attempt == bindparam("attempt_before"),
        StageRow.state == bindparam("state_before"),
    )
    .values(_CLAIMED)
)
_CLAIM_MANY = (
    update(StageRow)
    .where(StageRow.id.in_(bindparam("ids", expanding=True)), StageRow.state == StageState.PENDING.value)
    .values(_CLAIMED)
)
_ANEW_ONLY = {"synchronize_session": False}


async def add_stage(
    session: AsyncSession,
    round_id: str,
    kind: StageKind,
    inputs: Mapping[str, ArtifactRef],
    *,
    modality: Modality | None = None,
    level: int = 0,
    position: int = 0,
) -> StageRow | None:
    """Add a stage and the message that announces it; None if the round has that stage already."""
    same = select(StageRow).where(
        StageRow.round_id == round_id,
        StageRow.kind == kind.value,
        StageRow.modality == (modality or ""),
        StageRow.level == level,
        StageRow.position == position,
    )
    if await session.scalar(same) is not None:
        return None
    row = StageRow(
        round_id=round_id, kind=kind.value, modality=modality or "", level=level, position=position, inputs=dict(inputs)
    )
    session.add(row)
    await session.flush()
    session.add(OutboxRow(stage_id=row.id, kind=kind.value))
    return row


async def add_stages(
    session: AsyncSession,
    round_id: str,
    kind: StageKind,
    inputs: Mapping[tuple[Modality, int, int], Mapping[str, ArtifactRef]],
) -> list[tuple[Modality, int, int]]:
    """Add stages of one kind with their inputs, by modality, level and position, and announce them; those that the
    round has already."""
    asked = {"round_id": round_id, "kind": kind.value, "positions": list({position for _, _, position in inputs})}
    there = {(modality, level, position) for modality, level, position in await session.execute(_NODES, asked)}
    rows = [
        StageRow(
            round_id=round_id, kind=kind.value, modality=modality, level=level, position=position, inputs=dict(named)
        )
        for (modality, level, position), named in inputs.items()
        if (modality.value, level, position) not in there
    ]
    session.add_all(rows)
    await session.flush()
    if rows:
        await session.execute(insert(OutboxRow), [{"stage_id": row.id, "kind": row.kind} for row in rows])
    return [node for node in inputs if (node[0].value, *node[1:]) in there]


async def fold_anew(
    session: AsyncSession, round_id: str, inputs: Mapping[str, ArtifactRef], *, modality: Modality, position: int
) -> None:
    """Announce a client's fold that was cancelled because its delivery was lost, now that it has delivered again."""
    query = select(StageRow).where(
        StageRow.round_id == round_id,
        StageRow.kind == StageKind.FOLD.value,
        StageRow.modality == modality.value,
        StageRow.position == position,
        StageRow.state == StageState.CANCELLED.value,
    )
    row = await session.scalar(query)
    if row is None:
        return
    values = {"state": StageState.PENDING.value, "inputs": dict(inputs), "worker": None, "finished_at": None}
    await session.execute(update(StageRow).where(StageRow.id == row.id).values(last_progress_at=utc_now(), **values))
    session.add(OutboxRow(stage_id=row.id, kind=row.kind))


async def get_stage(session: AsyncSession, stage_id: str) -> tuple[StageRow, RoundRow]:
    """A stage and its round. Raises NotFoundError."""
    return (await get_stages(session, [stage_id]))[stage_id]


async def get_stages(session: AsyncSession, stage_ids: Sequence[str]) -> dict[str, tuple[StageRow, RoundRow]]:
    """As `get_stage`, many at once, by id."""
    # Rounds by a statement of their own: joined, each stage would bring its round's whole configuration along.
    stages = {
        stage.id: stage for stage in await session.scalars(_STAGES_OF, {"ids": stage_ids}, execution_options=_ANEW)
    }
    for stage_id in stage_ids:
        if stage_id not in stages:
            raise NotFoundError(f"stage {stage_id}: does not exist", stage_id=stage_id)
    ids = {"ids": list({stage.round_id for stage in stages.values()})}
    rounds = {row.id: row for row in await session.scalars(_ROUNDS_OF, ids, execution_options=_ANEW)}
    return {stage_id: (stage, rounds[stage.round_id]) for stage_id, stage in stages.items()}


async def list_stages(session: AsyncSession, round_id: str) -> Sequence[StageRow]:
    """A round's stages, oldest first."""
    query = select(StageRow).where(StageRow.round_id == round_id)
    return (await session.scalars(query.order_by(StageRow.created_at, StageRow.id))).all()


async def stage_outputs(session: AsyncSession, round_id: str, kind: StageKind) -> dict[str, ArtifactRef] | None:
    """Outputs of the round's one stage of a kind that it has once; None if that stage is not done."""
    query = select(StageRow.outputs).where(
        StageRow.round_id == round_id,
        StageRow.kind == kind.value,
        StageRow.level == 0,  # above it: done again, because the store had lost something
        StageRow.state == StageState.DONE.value,
    )
    return await session.scalar(query)


async def maker_of(session: AsyncSession, federation_id: str, key: str) -> tuple[StageRow, RoundRow]:
    """The stage, and its round, that made the artifact of that key. Raises NotFoundError, as for what a client sent."""
    registered = select(ArtifactRow.round_id).where(
        ArtifactRow.federation_id == federation_id, ArtifactRow.key == key, ArtifactRow.client_id.is_(None)
    )
    query = select(StageRow, RoundRow).join(RoundRow, StageRow.round_id == RoundRow.id)
    done = query.where(RoundRow.id.in_(registered), StageRow.state == StageState.DONE.value)
    for stage, row in (await session.execute(done.order_by(StageRow.created_at, StageRow.id))).all():
        if stage.kind == StageKind.PREPARE.value and row.upstream_round_id is not None:
            continue  # an upper federation's distiller did it
        # A stage that gives back what it was given has not made it.
        if _names(stage.outputs, key) and not _names(stage.inputs, key):
            return stage, row
    raise NotFoundError(f"object {key}: no stage of this federation made it", key=key)


def _names(entries: Mapping[str, Any] | None, key: str) -> bool:
    return any(entry["key"] == key for entry in (entries or {}).values())


async def claim_stage(session: AsyncSession, stage_id: str, worker: str, silent_since: datetime) -> int:
    """Claim a stage that nobody works on; its fencing token.

    The holder who asks again, because an answer was lost, gets the same token.
    Raises StageLostError when it is settled, or somebody else reported progress after `silent_since`.
    """
    row, _ = await get_stage(session, stage_id)
    return await claim_row(session, row, worker, silent_since)


async def claim_row(session: AsyncSession, row: StageRow, worker: str, silent_since: datetime) -> int:
    """As `claim_stage`, of a stage that this transaction has just read."""
    stage_id = row.id
    if row.state == StageState.RUNNING.value and row.worker == worker[:120]:
        await renew_stage(session, stage_id, row.attempt)
        return row.attempt
    free = row.state == StageState.PENDING.value or (
        row.state == StageState.RUNNING.value and row.last_progress_at < silent_since
    )
    if not free:
        raise StageLostError(f"stage {stage_id}: is {row.state}, by {row.worker}", stage_id=stage_id)
    before = {"of": stage_id, "attempt_before": row.attempt, "state_before": row.state}
    if await affected_rows(session, _CLAIM, before | {"by": worker[:120], "now": utc_now()}) != 1:
        raise StageLostError(f"stage {stage_id}: another distiller was quicker", stage_id=stage_id)
    return row.attempt + 1


async def free_stage(session: AsyncSession, stage: StageRow, worker: str) -> StageRow:
    """The stage, if it waits or is the worker's own, else another of its kind and round that waits, else itself."""
    mine = stage.state == StageState.RUNNING.value and stage.worker == worker[:120]
    if mine or stage.state == StageState.PENDING.value:
        return stage
    return await session.scalar(_WAITING, _asked(stage.round_id, [stage.kind]) | {"most": 1}) or stage


async def next_stage(session: AsyncSession, round_id: str, worker: str) -> StageRow | None:
    """The stage with which a worker that has just ended one of the round goes on; one that it holds already first.

    Folds are not among them: they come with messages, in turn with those of other federations.
    """
    asked = _asked(round_id, _GOING_ON)
    own = (await session.scalars(_OWN, asked | {"by": worker[:120]})).first()
    return own or await session.scalar(_WAITING, asked | {"most": 1})


async def has_open_folds(session: AsyncSession, round_id: str) -> bool:
    """Whether a fold of the round waits or is worked on."""
    return await session.scalar(_OPEN_FOLD, {"round_id": round_id}) is not None


async def claim_companions(
    session: AsyncSession, stage: StageRow, worker: str, most: int
) -> tuple[Sequence[StageRow], Sequence[datetime]]:
    """Claim up to `most` others of a stage's kind and round, their `attempt` as the token; and when each was announced.

    The holder who asks again gets those that it has, which do not wait any more, and others up to as many.
    """
    asked = _asked(stage.round_id, [stage.kind], but=stage.id)
    own = asked | {"by": worker[:120]}
    ids = list(await session.scalars(_OWN_IDS, own))
    rows = (await session.scalars(_WAITING, asked | {"most": max(most - len(ids), 0)})).all()
    announced = [row.last_progress_at for row in rows]
    if rows:
        claim = {"ids": [row.id for row in rows], "by": worker[:120], "now": utc_now()}
        await session.execute(_CLAIM_MANY, claim, execution_options=_ANEW_ONLY)
    if not rows and not ids:
        return [], []
    return (await session.scalars(_OWN, own, execution_options=_ANEW)).all(), announced


async def renew_companions(session: AsyncSession, stage_id: str, *, stepped: bool) -> None:
    """The worker of a stage lives, or made a step: that holds for those of its kind that it claimed with it."""
    main = aliased(StageRow)
    of_main = select(main.id).where(
        main.id == stage_id,
        main.round_id == StageRow.round_id,
        main.kind == StageRow.kind,
        main.worker == StageRow.worker,
    )
    same = update(StageRow).where(StageRow.state == StageState.RUNNING.value, of_main.exists())
    values = {"alive_at": utc_now()} | ({"last_progress_at": utc_now()} if stepped else {})
    await session.execute(same.values(**values).execution_options(synchronize_session=False))


def _asked(round_id: str, kinds: Sequence[str], *, but: str = "") -> dict[str, Any]:
    """Stages of a round of these kinds, but for one."""
    return {"round_id": round_id, "kinds": list(kinds), "but": but}


async def note_stage_progress(session: AsyncSession, stage_id: str, token: int, fraction: float, activity: str) -> bool:
    """A step was made, which also renews the lease; False if the claim is lost."""
    mine = _update_if_holder(stage_id, token).values(
        progress=min(max(fraction, 0.0), 1.0),
        activity=activity[:200],
        last_progress_at=utc_now(),
        alive_at=utc_now(),
        **_TAKEN_UP_AGAIN,
    )
    return await affected_rows(session, mine) == 1


async def renew_stage(session: AsyncSession, stage_id: str, token: int) -> bool:
    """The claiming distiller lives, though it made no step; False if the claim is lost."""
    mine = _update_if_holder(stage_id, token).values(alive_at=utc_now(), **_TAKEN_UP_AGAIN)
    return await affected_rows(session, mine) == 1


async def forgive_strike(session: AsyncSession, stage_id: str, token: int) -> None:
    """A distiller that was taken for lost lives, and another one has its stage: it was cut off, and did not die."""
    struck = update(StageRow).where(StageRow.id == stage_id, StageRow.attempt > token, StageRow.failures > 0)
    await session.execute(struck.values(failures=StageRow.failures - 1))


async def settle_stage(session: AsyncSession, stage_id: str, token: int, new: StageState, **values: Any) -> bool:
    """End or hand back a claimed stage as `new`; False if the claim is lost."""
    if new is not StageState.PENDING:
        values |= {"finished_at": utc_now()}
    mine = _update_if_holder(stage_id, token).values(state=new.value, **values)
    return await affected_rows(session, mine) == 1


async def cancel_stages(session: AsyncSession, round_id: str) -> None:
    """Cancel what is open, so that no distiller starts or completes it."""
    ours = update(StageRow).where(StageRow.round_id == round_id, StageRow.state.in_(_OPEN))
    await session.execute(ours.values(state=StageState.CANCELLED.value, finished_at=utc_now()))


async def announce_pending(session: AsyncSession, sent_before: datetime | None = None) -> int:
    """Announce every unclaimed stage whose message has left, because the broker lost it; how many there were.

    With `sent_before` only those whose every message left before then.
    """
    unsent = OutboxRow.sent_at.is_(None)
    on_its_way = select(OutboxRow.stage_id).where(
        unsent if sent_before is None else or_(unsent, OutboxRow.sent_at >= sent_before)
    )
    query = select(StageRow).where(StageRow.state == StageState.PENDING.value, StageRow.id.not_in(on_its_way))
    rows = (await session.scalars(query.order_by(StageRow.created_at, StageRow.id))).all()
    session.add_all(OutboxRow(stage_id=row.id, kind=row.kind) for row in rows)
    await session.flush()
    return len(rows)


async def announce_again(session: AsyncSession, row: StageRow | StageLook, *, failures: int) -> None:
    """Offer a stage to the distillers once more; an old claim on it is void."""
    guarded = update(StageRow).where(StageRow.id == row.id, StageRow.attempt == row.attempt, StageRow.state.in_(_OPEN))
    values = {"state": StageState.PENDING.value, "failures": failures, "last_progress_at": utc_now()}
    await session.execute(guarded.values(**values))
    session.add(OutboxRow(stage_id=row.id, kind=row.kind))


def _update_if_holder(stage_id: str, token: int) -> Any:
    """The stage as long as nobody claimed it after the holder of `token`, even if that one was taken for lost."""
    running = StageRow.state == StageState.RUNNING.value
    cut_off = and_(StageRow.state == StageState.PENDING.value, StageRow.worker.is_not(None))
    return update(StageRow).where(StageRow.id == stage_id, StageRow.attempt == token, or_(running, cut_off))


_TAKEN_UP_AGAIN: dict[str, Any] = {
    "state": StageState.RUNNING.value,
    "failures": case(
        (and_(StageRow.state == StageState.PENDING.value, StageRow.failures > 0), StageRow.failures - 1),
        else_=StageRow.failures,
    ),
}
"""A distiller that was taken for lost has its stage back, and the strike is taken back: it was cut off, not dead."""
