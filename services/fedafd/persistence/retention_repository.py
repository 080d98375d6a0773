"""What a federation's retention lets go: server states, working files and folders that nothing can need any more.

Kept are the newest versions, those that the current one goes back to, the best, those that somebody promoted, and what
an open round works with. Everything else of a completed round served that round alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.artifacts.stage_io import WEIGHTS
from fedafd.domain.config import RetentionConfig, stored_federation_config
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.states import OPEN_ROUND_STATES, RoundState
from fedafd.persistence.artifact_repository import forget_artifacts
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import (
    ArtifactRow,
    ClientRow,
    FederationRow,
    ModelFileRow,
    ModelVersionRow,
    PersonalizedModelRow,
    RoundRow,
    StageRow,
    utc_now,
)

__all__ = ["LetGo", "apply_retention", "let_go", "let_go_models"]

_OPEN = sorted(state.value for state in OPEN_ROUND_STATES)
_BEST_BY = "rsum"
_CURRENT_AND_BEFORE = 2
"""The current version and the one before it always stay: a rollback is always possible."""
_NEVER = 2**62
"""Above the number of any round."""
_OF_A_STATEMENT = 500


@dataclass(frozen=True)
class LetGo:
    """What nothing needs any more, of one federation."""

    states: Sequence[ModelVersionRow] = ()
    """Versions that no round can start from any more."""
    artifacts: Sequence[ArtifactRow] = ()
    folders: Sequence[ModelVersionRow] = ()
    personalized: Sequence[PersonalizedModelRow] = ()
    files: Sequence[ModelFileRow] = ()
    """Of those folders, global and personalized."""

    @property
    def keys(self) -> frozenset[str]:
        """Of the objects, without their copies."""
        return frozenset(self._keys())

    def _keys(self) -> Iterator[str]:
        yield from (row.state_key for row in self.states)
        yield from (row.key for row in self.artifacts)
        yield from (row.key for row in self.files)


@dataclass(frozen=True, kw_only=True)
class _Needed:
    """What a federation goes on with."""

    retention: RetentionConfig
    versions: frozenset[int]
    """Numbers of those whose states stay."""
    keys: frozenset[str]
    """Of those states, and of all that an open round reads."""
    rounds_of_versions: frozenset[str]
    """Ids of the rounds that made them."""
    working: frozenset[str]
    """Ids of the rounds whose working files stay, to make again what the store loses."""
    deliveries_from: int
    """Number of the first round whose deliveries stay."""
    counts_from: int
    """Number of the first round whose representations may count in a later one."""


async def apply_retention(session: AsyncSession, federation_id: str) -> LetGo:
    """Name no more what retention lets go, and have the rounds swept that it lay in; what it was.

    The federation's row is locked: nobody promotes meanwhile a version whose state goes, and no round starts from it.
    """
    await get_federation(session, federation_id, lock=True)
    gone = await let_go(session, federation_id)
    for rows, column in ((gone.states, "state_removed_at"), (gone.folders, "files_removed_at")):
        for row in rows:
            setattr(row, column, utc_now())
    for shared in gone.personalized:
        shared.files_removed_at = utc_now()
    await forget_artifacts(session, gone.artifacts)
    for some in _portions([row.id for row in gone.files]):
        await session.execute(delete(ModelFileRow).where(ModelFileRow.id.in_(some)))
    versions = {row.round_id for row in (*gone.states, *gone.folders)}
    versions |= {model.round_id for model in gone.personalized}
    rounds = versions | {row.round_id for row in gone.artifacts if row.round_id is not None}
    for some in _portions(sorted(rounds)):
        await session.execute(update(RoundRow).where(RoundRow.id.in_(some)).values(swept_at=None))
    await session.flush()
    return gone


async def let_go_models(session: AsyncSession, round_id: str) -> Sequence[str]:
    """Names of clients of which a model of that round is named no more."""
    query = select(ClientRow.name).join(PersonalizedModelRow, PersonalizedModelRow.client_id == ClientRow.id)
    gone = PersonalizedModelRow.files_removed_at.is_not(None)
    return (await session.scalars(query.where(PersonalizedModelRow.round_id == round_id, gone))).all()


async def let_go(session: AsyncSession, federation_id: str) -> LetGo:
    """What nothing of the federation needs any more."""
    needed = await _needed(session, federation_id)
    with_state = ModelVersionRow.state_removed_at.is_(None)
    versions = await _versions(session, federation_id, with_state)
    states = [row for row in versions if row.version not in needed.versions and row.state_key not in needed.keys]
    folders, personalized = await _folders(session, federation_id, needed)
    files = await _files(session, folders, personalized)
    artifacts = [
        row for row, number in await _artifacts(session, federation_id, files) if not _stays(row, number, needed)
    ]
    return LetGo(states, artifacts, folders, personalized, files)


def _stays(row: ArtifactRow, number: int, needed: _Needed) -> bool:
    if row.key in needed.keys:
        return True
    if row.client_id is not None:
        counts = row.purpose == UploadPurpose.REPRESENTATIONS.value and number >= needed.counts_from
        return counts or number >= needed.deliveries_from
    # The averages are what the next round's clients begin with.
    is_average = row.purpose.startswith(WEIGHTS)
    return row.round_id in (needed.rounds_of_versions if is_average else needed.working)


async def _needed(session: AsyncSession, federation_id: str) -> _Needed:
    federation = await get_federation(session, federation_id)
    retention = stored_federation_config(federation.config).retention
    mine = select(RoundRow).where(RoundRow.federation_id == federation_id, RoundRow.state.in_(_OPEN))
    open_rounds = (await session.scalars(mine)).all()
    going_on = {federation.current_version, *(row.base_version for row in open_rounds)}
    rows = await _versions(session, federation_id, ModelVersionRow.state_removed_at.is_(None))
    versions = _kept_versions(rows, federation.current_version, retention.keep_rounds)
    versions |= {row.version for row in rows if row.version in going_on}
    reads = select(StageRow.inputs).where(StageRow.round_id.in_([row.id for row in open_rounds]))
    keys = {entry["key"] for inputs in await session.scalars(reads) for entry in inputs.values()}
    # A region's rounds make no version; the newest one's merged states may be asked for once more.
    newest = await _newest_round(session, federation_id) if federation.current_version is None else frozenset()
    return _Needed(
        retention=retention,
        versions=frozenset(versions),
        keys=frozenset(keys | {row.state_key for row in rows if row.version in versions}),
        rounds_of_versions=frozenset(row.round_id for row in rows if row.version in versions),
        working=frozenset(row.round_id for row in rows if row.version in going_on) | newest,
        deliveries_from=await _first_of_newest(session, federation_id, retention.keep_deliveries),
        counts_from=await _counts_from(session, federation, open_rounds),
    )


def _kept_versions(rows: Sequence[ModelVersionRow], current: int | None, keep_rounds: int | None) -> set[int]:
    """Numbers of the versions whose states stay, of `rows`, which are in ascending order."""
    if keep_rounds is None:
        return {row.version for row in rows}
    by_version = {row.version: row for row in rows}
    kept = {row.version for row in rows[-keep_rounds:]} | {row.version for row in rows if row.promoted_at is not None}
    scored = [row for row in rows if _BEST_BY in row.metrics]
    if scored:
        kept.add(max(scored, key=lambda row: (row.metrics[_BEST_BY], row.version)).version)
    version = by_version.get(current) if current is not None else None
    for _ in range(max(keep_rounds, _CURRENT_AND_BEFORE)):
        if version is None:
            break
        kept.add(version.version)
        version = by_version.get(version.parent_version) if version.parent_version is not None else None
    return kept


async def _newest_round(session: AsyncSession, federation_id: str) -> frozenset[str]:
    completed = select(RoundRow.id).where(
        RoundRow.federation_id == federation_id, RoundRow.state == RoundState.COMPLETED.value
    )
    return frozenset(await session.scalars(completed.order_by(RoundRow.number.desc()).limit(1)))


async def _first_of_newest(session: AsyncSession, federation_id: str, count: int) -> int:
    """Number of the first of the newest `count` completed rounds; for 0, one above all rounds."""
    completed = select(RoundRow.number).where(
        RoundRow.federation_id == federation_id, RoundRow.state == RoundState.COMPLETED.value
    )
    newest = (await session.scalars(completed.order_by(RoundRow.number.desc()).limit(count))).all()
    return newest[-1] if newest else _NEVER


async def _counts_from(session: AsyncSession, federation: FederationRow, open_rounds: Sequence[RoundRow]) -> int:
    """Number of the first round whose representations may still count; above all rounds where none may."""
    configs = [federation.config, *(row.config for row in open_rounds)]
    distillations = [stored_federation_config(config).distillation for config in configs]
    ages = [config.max_staleness for config in distillations if config.staleness_decay is not None]
    if not ages:
        return _NEVER
    last = select(func.max(RoundRow.number)).where(RoundRow.federation_id == federation.id)
    following = (await session.scalar(last) or 0) + 1
    return min([following, *(row.number for row in open_rounds)]) - max(ages)


async def _folders(
    session: AsyncSession, federation_id: str, needed: _Needed
) -> tuple[list[ModelVersionRow], list[PersonalizedModelRow]]:
    keep = needed.retention.keep_models
    if keep is None:
        return [], []
    versions = await _versions(session, federation_id, ModelVersionRow.files_removed_at.is_(None))
    newest = {row.version for row in versions[-keep:]} | needed.versions
    age = func.row_number().over(
        partition_by=PersonalizedModelRow.client_id, order_by=PersonalizedModelRow.version.desc()
    )
    aged = select(PersonalizedModelRow.id, age.label("age")).join(ClientRow)
    aged = aged.where(ClientRow.federation_id == federation_id, PersonalizedModelRow.files_removed_at.is_(None))
    ages = aged.subquery()
    old = select(PersonalizedModelRow).join(ages, PersonalizedModelRow.id == ages.c.id).where(ages.c.age > keep)
    return [row for row in versions if row.version not in newest], list(await session.scalars(old))


async def _files(
    session: AsyncSession, folders: Sequence[ModelVersionRow], personalized: Sequence[PersonalizedModelRow]
) -> list[ModelFileRow]:
    files: list[ModelFileRow] = []
    for column, owners in (
        (ModelFileRow.model_version_id, folders),
        (ModelFileRow.personalized_model_id, personalized),
    ):
        for some in _portions([row.id for row in owners]):
            files += await session.scalars(select(ModelFileRow).where(column.in_(some)))
    return files


async def _artifacts(
    session: AsyncSession, federation_id: str, files: Sequence[ModelFileRow]
) -> list[tuple[ArtifactRow, int]]:
    """Artifacts of rounds that are over, with the rounds' numbers; of those in folders only these files."""
    query = select(ArtifactRow, RoundRow.number).join(RoundRow, ArtifactRow.round_id == RoundRow.id)
    over = query.where(RoundRow.federation_id == federation_id, RoundRow.state.not_in(_OPEN))
    wanted = [over.where(ArtifactRow.key.not_in(select(ModelFileRow.key)))]
    wanted += [over.where(ArtifactRow.key.in_(some)) for some in _portions([row.key for row in files])]
    return [(row, number) for query in wanted for row, number in (await session.execute(query)).all()]


async def _versions(session: AsyncSession, federation_id: str, which: ColumnElement[bool]) -> Sequence[ModelVersionRow]:
    query = select(ModelVersionRow).where(ModelVersionRow.federation_id == federation_id, which)
    return (await session.scalars(query.order_by(ModelVersionRow.version))).all()


def _portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _OF_A_STATEMENT):
        yield ids[start : start + _OF_A_STATEMENT]
