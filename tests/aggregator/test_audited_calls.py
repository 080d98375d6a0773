"""Every call of an agent that changes more than signs of life leaves an entry in the audit log: who, and what.

The calls come from the service's descriptor: a new one fails until an example of it stands here, and then if it
changes a row without an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from sqlalchemy import select
from tests.aggregator.test_identity import Site, invited
from tests.aggregator.world import World

from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import UploadPurpose
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.models import Base, ClientRow, EventRow
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.codes import wire_purpose

SERVICE = pb.DESCRIPTOR.services_by_name["AggregatorService"]
Rows = dict[tuple[Any, ...], Any]
SIGNS_OF_LIFE = {
    "clients": {"last_seen_at", "session", "session_until", "other_agent_refused_at"},
    "participations": {
        *("state", "progress", "activity", "last_progress_at", "trains_since", "sends_since"),
        *("bytes_up", "bytes_down", "advanced_at", "work_done", "work_of", "work_begun", "farthest"),
    },
}
"""Columns that say that an agent lives and how far it is. A participation's state is among them while it is open."""
ON_THE_WAY = {"uploads"}
"""Tables of what counts for nothing before it is delivered, and is removed with the round."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


class Told:
    """What the examples hold: a site that collects, and the ids of its round."""

    def __init__(self, world: World, site: Site, round_id: str) -> None:
        self.site, self.round_id, self.blob = site, round_id, world.reps()
        self.upload_id = ""


def enrol(told: Told) -> Message:
    return pb.EnrollRequest(
        token=told.site.token,
        kind=types_pb2.CLIENT_KIND_IMAGE,
        nonce=told.site.nonce,
        certificate_request=told.site.request(),
    )


def begin(told: Told) -> Message:
    return pb.BeginUploadRequest(
        round_id=told.round_id,
        upload_purpose=wire_purpose(UploadPurpose.REPRESENTATIONS),
        sha256=sha256_of(told.blob),
        size_bytes=len(told.blob),
        chunk_size_bytes=65536,
        chunk_sha256=[sha256_of(told.blob)],
    )


CALLS: dict[str, tuple[Callable[[Told], Message], str | None]] = {
    "Enroll": (enrol, "client.enrolled"),
    "RenewCertificate": (
        lambda told: pb.RenewCertificateRequest(certificate_request=told.site.request()),
        "client.certificate_renewed",
    ),
    "FetchTask": (lambda told: pb.FetchTaskRequest(), None),
    "ReportProgress": (lambda told: pb.ReportProgressRequest(round_id=told.round_id, fraction=0.5), None),
    "BeginUpload": (begin, None),
    "UploadChunks": (lambda told: pb.UploadChunksRequest(upload_id=told.upload_id, data=told.blob), None),
    "CommitUpload": (
        lambda told: pb.CommitUploadRequest(round_id=told.round_id, upload_ids=[told.upload_id]),
        "participation.delivered",
    ),
    "DescribeArtifact": (lambda told: pb.DescribeArtifactRequest(sha256=sha256_of(b"image")), None),
    "DownloadArtifact": (lambda told: pb.DownloadArtifactRequest(sha256=sha256_of(b"image")), None),
    "LeaveRound": (
        lambda told: pb.LeaveRoundRequest(round_id=told.round_id, leave_reason=pb.LEAVE_REASON_DISK_FULL),
        "participation.dropped",
    ),
    "EndSession": (lambda told: pb.EndSessionRequest(), None),
}
NEEDS = {"UploadChunks": ["BeginUpload"], "CommitUpload": ["BeginUpload", "UploadChunks"]}


def test_an_example_of_every_call_stands_here() -> None:
    assert {method.name for method in SERVICE.methods} == set(CALLS)


async def rows(world: World) -> Rows:
    """All that the database holds but the audit log, by table, key and column."""
    found: Rows = {}
    async with world.context.database.snapshot() as session:
        for table in Base.metadata.sorted_tables:
            if table.name == EventRow.__tablename__ or table.name in ON_THE_WAY:
                continue
            for row in (await session.execute(select(table))).mappings():
                key = tuple(row[column.name] for column in table.primary_key)
                found |= {(table.name, key, name): value for name, value in row.items()}
    return found


async def call(world: World, told: Told, name: str) -> None:
    request = CALLS[name][0](told)
    method = SERVICE.methods_by_name[name]
    metadata = () if name == "Enroll" else told.site.signed(f"/{SERVICE.full_name}/{name}")
    answer = getattr(world.agents, name)(iter([request]) if method.client_streaming else request, metadata=metadata)
    if method.server_streaming:
        async for _ in answer:
            pass
        return
    settled = await answer
    told.upload_id = getattr(settled, "upload_id", told.upload_id)


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods])
async def test_a_call_that_changes_something_is_entered_with_who_and_what(world: World, name: str) -> None:
    site = await invited(world)
    if name != "Enroll":
        await site.enrol(world)
        round_id = await world.start_round()
        await world.prepare()
    else:
        round_id = ""
    told = Told(world, site, round_id)
    for earlier in NEEDS.get(name, []):
        await call(world, told, earlier)
    if (
        name == "RenewCertificate"
    ):  # ends are in whole seconds: another certificate in the same second ends with the last
        await age_certificate(world, timedelta(hours=1))
    await settled(world)
    before, last = await rows(world), await newest(world)
    await call(world, told, name)
    await settled(world)
    after = await rows(world)
    changed = {
        (table, column)
        for table, key, column in before.keys() | after.keys()
        if before.get((table, key, column)) != after.get((table, key, column))
    }
    more = {each for each in changed if each[1] not in SIGNS_OF_LIFE.get(each[0], set())}
    async with world.context.database.snapshot() as session:
        entries = [(each.kind, each.actor) for each in await events_after(session, "trial", last)]
    kind = CALLS[name][1]
    assert entries == ([] if kind is None else [(kind, "client:north")])
    assert bool(more) == (kind is not None), f"{name} changed {sorted(more)}"


async def age_certificate(world: World, by: timedelta) -> None:
    async with world.context.database.transaction() as session:
        (client,) = (await session.scalars(select(ClientRow))).all()
        assert client.certificate_until is not None
        client.certificate_until -= by


async def settled(world: World) -> None:
    """What is written a moment later is written now."""
    await world.context.progress.close()
    await world.context.renewals.flush()


async def newest(world: World) -> int:
    """The last entry's id."""
    async with world.context.database.snapshot() as session:
        return max((each.id for each in await events_after(session, None, 0, limit=1000)), default=0)


async def test_a_delivery_that_is_refused_is_entered_with_its_reason(world: World) -> None:
    site = await invited(world)
    await site.enrol(world)
    round_id = await world.start_round()
    await world.prepare()
    told = Told(world, site, round_id)
    told.blob = world.reps(poison=True)
    last = await newest(world)
    for name in ("BeginUpload", "UploadChunks", "CommitUpload"):
        await call(world, told, name)
    async with world.context.database.snapshot() as session:
        (entry,) = await events_after(session, "trial", last)
    assert (entry.kind, entry.actor, entry.data["round"]) == ("participation.rejected", "client:north", 1)
    assert "not finite" in entry.data["reason"]
