"""What a look at a round reads: of its stages and its parts the columns that decide, as plain tuples.

The coordinator reads all of a round's rows at each look. As objects that a session keeps track of they cost ten times
as much, and an input of a fold, of which nothing follows, as much as the rest.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Dialect,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    case,
    cast,
    null,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.kinds import StageKind
from fedafd.persistence.models import ClientRow, ParticipationRow, StageRow

__all__ = ["ClientLook", "PartLook", "StageLook", "look_at_parts", "look_at_stages", "write_contributions"]

_STAGES = typing.cast("Table", StageRow.__table__)
_PARTS = typing.cast("Table", ParticipationRow.__table__)
_CLIENTS = typing.cast("Table", ClientRow.__table__)


class StageLook(NamedTuple):
    """A stage. `inputs` are None for a fold."""

    id: str
    kind: str
    modality: str
    level: int
    position: int
    state: str
    attempt: int
    failures: int
    worker: str | None
    reason: str | None
    last_progress_at: datetime
    alive_at: datetime
    finished_at: datetime | None
    inputs: Mapping[str, ArtifactRef] | None
    outputs: Mapping[str, ArtifactRef] | None
    metrics: Mapping[str, float] | None


class PartLook(NamedTuple):
    """A client's part in the round."""

    id: str
    position: int
    state: str
    last_progress_at: datetime
    reason: str | None
    reason_code: str | None
    region_clients: Mapping[str, int] | None
    contributions: Mapping[str, Any] | None


class ClientLook(NamedTuple):
    """The client whose part it is."""

    id: str
    name: str
    kind: str
    max_clients: int | None
    revoked_at: datetime | None


@lru_cache(maxsize=8192)
def _value_of(text: str) -> Any:
    """Nearly all that a look reads stood there at the last one: it is parsed once, and nobody changes it."""
    return json.loads(text)


class _SharedJson(TypeDecorator[Any]):
    """JSON as text, whatever the database keeps it as."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, _: Dialect) -> Any:
        return None if value is None else _value_of(value)


def _read(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(column, _SharedJson) if isinstance(column.type, JSON) else column


_OWN_INPUTS = cast(case((_STAGES.c.kind == StageKind.FOLD.value, null()), else_=_STAGES.c.inputs), _SharedJson)
_STAGE_LOOKS = (
    select(*(_OWN_INPUTS if name == "inputs" else _read(_STAGES.c[name]) for name in StageLook._fields))
    .where(_STAGES.c.round_id == bindparam("round_id"))
    .order_by(_STAGES.c.created_at, _STAGES.c.id)
)
_PART_LOOKS = (
    select(*(_read(_PARTS.c[name]) for name in PartLook._fields), *(_CLIENTS.c[name] for name in ClientLook._fields))
    .join_from(_PARTS, _CLIENTS, _PARTS.c.client_id == _CLIENTS.c.id)
    .where(_PARTS.c.round_id == bindparam("round_id"))
    .order_by(_PARTS.c.position)
)
_NUM_PART_FIELDS = len(PartLook._fields)
_CONTRIBUTIONS = (
    update(_PARTS).where(_PARTS.c.id == bindparam("participation_id")).values(contributions=bindparam("known"))
)


async def look_at_stages(session: AsyncSession, round_id: str) -> list[StageLook]:
    """A round's stages, oldest first."""
    rows = await (await session.connection()).execute(_STAGE_LOOKS, {"round_id": round_id})
    return [StageLook._make(row) for row in rows]


async def look_at_parts(session: AsyncSession, round_id: str) -> list[tuple[PartLook, ClientLook]]:
    """A round's participations with their clients, in cohort order."""
    rows = await (await session.connection()).execute(_PART_LOOKS, {"round_id": round_id})
    return [(PartLook._make(row[:_NUM_PART_FIELDS]), ClientLook._make(row[_NUM_PART_FIELDS:])) for row in rows]


async def write_contributions(session: AsyncSession, known: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Write what participations, named by their ids, count for."""
    rows = [{"participation_id": key, "known": dict(value)} for key, value in known]
    if rows:
        await (await session.connection()).execute(_CONTRIBUTIONS, rows)
