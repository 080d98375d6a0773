"""A look at a round says of each row what the row says, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import Modality, ParticipantKind, StageKind
from fedafd.domain.states import ParticipationState, StageState
from fedafd.persistence.client_repository import invite_client, revoke_client
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.look_repository import (
    ClientLook,
    PartLook,
    StageLook,
    look_at_parts,
    look_at_stages,
    write_contributions,
)
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import utc_now
from fedafd.persistence.participation_repository import invite_cohort, list_participations, settle_participation
from fedafd.persistence.round_repository import add_rounds
from fedafd.persistence.stage_repository import add_stage, claim_stage, list_stages, settle_stage

ENTRY: Any = {"sha256": "0" * 64, "size_bytes": 3, "purpose": "sed-state", "key": "a/b"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    yield database
    await database.close()


async def test_looks_say_what_the_rows_say(database: Database) -> None:
    async with database.transaction() as session:
        await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
        (row,) = await add_rounds(session, "trial", {}, "0" * 64, 1)
        for kind in (StageKind.PREPARE, StageKind.FOLD, StageKind.MERGE):
            stage = await add_stage(session, row.id, kind, {"in": ENTRY}, modality=Modality.TEXT, level=1, position=2)
            assert stage is not None
            await claim_stage(session, stage.id, "distiller", utc_now())
            await settle_stage(session, stage.id, 1, StageState.DONE, outputs={"out": ENTRY}, metrics={"a": 1.5})
        await add_stage(session, row.id, StageKind.DISTIL, {"in": ENTRY})
        names = ("north", "south")
        invited = [await invite_client(session, "trial", name, ParticipantKind.PAIR, timedelta(1)) for name in names]
        await invite_cohort(session, row.id, [client for client, _ in invited])
        await revoke_client(session, invited[1][0])
    async with database.transaction() as session:
        (north, _), (south, _) = await list_participations(session, row.id)
        dropped = {"reason": "left", "reason_code": "revoked"}
        await settle_participation(session, south.id, ParticipationState.DROPPED, **dropped)
        await write_contributions(session, [(north.id, {"image": {"weight": 0.5}})])
        await write_contributions(session, [])
    async with database.snapshot() as session:
        stages, parts = await look_at_stages(session, row.id), await look_at_parts(session, row.id)
        stage_rows, part_rows = await list_stages(session, row.id), await list_participations(session, row.id)
    for look, whole in zip(stages, stage_rows, strict=True):
        unread = {"inputs"} if look.kind == StageKind.FOLD else set()
        assert {name: getattr(look, name) for name in StageLook._fields if name not in unread} == {
            name: getattr(whole, name) for name in StageLook._fields if name not in unread
        }
    assert [stage.inputs for stage in stages if stage.kind == StageKind.FOLD] == [None]
    for (part, client), (part_row, client_row) in zip(parts, part_rows, strict=True):
        assert part == PartLook(*(getattr(part_row, name) for name in PartLook._fields))
        assert client == ClientLook(*(getattr(client_row, name) for name in ClientLook._fields))
    assert parts[0][0].contributions == {"image": {"weight": 0.5}}
    assert parts[1][1].revoked_at is not None
