"""The aggregator over real gRPC: what agents may and may not do, and a round walked through by a scripted distiller."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.aggregator.server import make_server
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.config import FederationConfig, WireDtype
from fedafd.domain.kinds import ClientKind, Modality, StageKind
from fedafd.persistence.client_repository import get_client, invite_client, revoke_client
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation, get_federation
from fedafd.persistence.models import Base, RoundRow
from fedafd.persistence.round_repository import add_rounds, get_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2, types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.tensors import encode_representations
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import sha256_of

TOKEN = "internal"
DIM = 8
INTERNAL = bearer_metadata(TOKEN)


@dataclass
class World:
    context: Context
    agents: AggregatorServiceStub
    distillers: DistillationServiceStub
    coordinator: Coordinator
    sent: list[tuple[StageKind, str]]
    public_sha256: str

    async def coordinate(self) -> None:
        while await self.coordinator.look():
            pass

    async def enrol(self, name: str, kind: ClientKind = ClientKind.IMAGE) -> tuple[tuple[str, str], ...]:
        async with self.context.database.transaction() as session:
            _, token = await invite_client(session, "trial", name, kind, timedelta(hours=1))
        wire = {ClientKind.IMAGE: types_pb2.CLIENT_KIND_IMAGE, ClientKind.TEXT: types_pb2.CLIENT_KIND_TEXT}[kind]
        answer = await self.agents.Enroll(pb.EnrollRequest(token=token, kind=wire))
        return bearer_metadata(answer.credential)

    async def start_round(self, **config: object) -> str:
        async with self.context.database.transaction() as session:
            federation = await get_federation(session, "trial")
            values = federation.config | config
            (row,) = await add_rounds(session, "trial", values, self.public_sha256, 1)
        await self.coordinate()
        return row.id

    async def distil(self, kind: StageKind, **outputs: bytes) -> None:
        """Claim the newest announced stage of a kind and complete it with these outputs."""
        stage_id = [stage for sent, stage in self.sent if sent is kind][-1]
        claim = await self.distillers.ClaimStage(
            distillation_pb2.ClaimStageRequest(stage_id=stage_id, worker="script"), metadata=INTERNAL
        )
        named = []
        for name, content in outputs.items():
            path = name.replace("__", "/").replace("_", "-")
            key = f"{claim.output_prefix}{path}/{sha256_of(content)}"
            self.context.store.put(key, content)
            artifact = types_pb2.Artifact(sha256=sha256_of(content), size_bytes=len(content), purpose=path, key=key)
            named.append(distillation_pb2.NamedArtifact(name=path, artifact=artifact))
        request = distillation_pb2.CompleteStageRequest(
            stage_id=stage_id, token=claim.token, outputs=named, metrics={"rsum": 1.0}
        )
        for _ in range(2):
            await self.distillers.CompleteStage(request, metadata=INTERNAL)
        await self.coordinate()

    async def prepare(self) -> None:
        outputs = {"server_state": b"state", "representations": b"reps"}
        await self.distil(StageKind.PREPARE, **outputs, encoder_bundle__image=b"image", encoder_bundle__text=b"text")

    async def round(self, round_id: str) -> RoundRow:
        async with self.context.database.transaction() as session:
            return await get_round(session, round_id)

    async def upload(self, caller: tuple[tuple[str, str], ...], round_id: str, blob: bytes) -> str:
        chunks = [blob[i : i + 65536] for i in range(0, len(blob), 65536)]
        begin = pb.BeginUploadRequest(
            round_id=round_id,
            purpose="representations",
            sha256=sha256_of(blob),
            size_bytes=len(blob),
            chunk_size_bytes=65536,
            chunk_sha256=[sha256_of(chunk) for chunk in chunks],
        )
        begun = await self.agents.BeginUpload(begin, metadata=caller)

        def messages() -> Iterator[pb.UploadChunksRequest]:
            for index in begun.missing_chunks:
                yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=index, data=chunks[index])

        if begun.missing_chunks:
            await self.agents.UploadChunks(messages(), metadata=caller)
        assert not (await self.agents.BeginUpload(begin, metadata=caller)).missing_chunks
        return str(begun.upload_id)

    async def deliver(self, caller: tuple[tuple[str, str], ...], round_id: str, blob: bytes) -> pb.CommitUploadResponse:
        upload_id = await self.upload(caller, round_id, blob)
        request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id], metrics={"federated/acc1": 50.0})
        return await self.agents.CommitUpload(request, metadata=caller)

    def reps(self, num: int = 6, dim: int = DIM, sha256: str | None = None, **options: object) -> bytes:
        rows = np.eye(max(num, dim), dim, dtype=np.float32)[:num]
        rows[rows.sum(1) == 0, 0] = 1
        if options.get("poison"):
            rows[2, 1] = np.nan
        dtype = WireDtype(str(options.get("dtype", "float16")))
        return encode_representations({Modality.IMAGE: rows}, sha256 or self.public_sha256, dtype)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    database = Database(database_url)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    store = FolderStore(tmp_path / "store")
    manifest = write_public_set(
        load_public_data("shapes", None, {"num_train": 6, "num_val": 1, "num_test": 1}), tmp_path
    )
    store.put(f"public-sets/{manifest.sha256}/manifest.json", manifest.to_bytes())
    for shard in manifest.shards:
        store.put_file(f"public-sets/{manifest.sha256}/{shard.name}", tmp_path / shard.name)
    context = Context(database, store, TOKEN)
    config = FederationConfig(name="trial", embedding_dim=DIM).model_dump(mode="json")
    async with database.transaction() as session:
        row = await add_federation(session, "trial", config)
        row.public_set_sha256 = manifest.sha256
    server, _ = make_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sent: list[tuple[StageKind, str]] = []
    coordinator = Coordinator(context, Outbox(database, lambda kind, stage: sent.append((kind, stage))))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stubs = AggregatorServiceStub(channel), DistillationServiceStub(channel)
        yield World(context, *stubs, coordinator, sent, manifest.sha256)
    await server.stop(None)
    await database.close()


def refused(raised: pytest.ExceptionInfo[grpc.aio.AioRpcError], status: grpc.StatusCode, code: str) -> str:
    assert raised.value.code() is status
    assert dict(raised.value.trailing_metadata() or ())["fedafd-error-code"] == code
    return str(raised.value.details())


async def test_a_round_walks_from_queued_to_a_published_version(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    assert (await world.round(round_id)).state == "preparing"
    await world.prepare()
    task = await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    assert task.train.round_id == round_id
    assert [bundle.purpose for bundle in task.train.encoder_bundles] == ["encoder-bundle/image"]
    assert not any(artifact.key for artifact in task.train.public_set)
    receipt = await world.deliver(caller, round_id, world.reps())
    assert receipt.accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"
    await world.distil(StageKind.DISTIL, server_state=b"distilled")
    await world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
    assert (await world.round(round_id)).state == "completed"
    async with world.context.database.transaction() as session:
        assert (await get_federation(session, "trial")).current_version == 1


async def test_committing_again_gives_the_same_receipt(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    first = await world.deliver(caller, round_id, world.reps())
    again = await world.agents.CommitUpload(pb.CommitUploadRequest(round_id=round_id), metadata=caller)
    assert again == first


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num": 5}, r"shape \[5, 8\], expected \[6, 8\]"),
        ({"dim": 9}, r"shape \[6, 9\], expected \[6, 8\]"),
        ({"dtype": "float32"}, "dtype float32, expected float16"),
        ({"poison": True}, "not finite"),
        ({"sha256": "b" * 64}, "public set bbbb"),
    ],
    ids=["rows", "dimension", "dtype", "nan", "public set"],
)
async def test_a_bad_upload_is_rejected_with_its_reason_and_the_round_goes_on(
    world: World, options: dict[str, object], reason: str
) -> None:
    import re

    bad, good = await world.enrol("bad"), await world.enrol("good")
    round_id = await world.start_round()
    await world.prepare()
    receipt = await world.deliver(bad, round_id, world.reps(**options))  # type: ignore[arg-type]
    assert not receipt.accepted
    assert re.search(reason, receipt.rejection_reason)
    assert (await world.deliver(good, round_id, world.reps())).accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"


async def test_a_round_without_its_quorum_fails_and_leaves_the_version(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round(quorum={"min_clients": 1, "min_text_clients": 1, "min_image_clients": 0})
    await world.prepare()
    await world.deliver(caller, round_id, world.reps())
    await world.coordinate()
    row = await world.round(round_id)
    assert row.state == "failed"
    assert row.reason == "quorum not reached: 0 of 1 deliveries with text representations"


async def test_a_silent_client_is_dropped(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round(idle_timeout_seconds=0.01)
    await world.prepare()
    await world.coordinate()
    assert (await world.round(round_id)).reason == "quorum not reached: 0 of 1 deliveries"


async def test_an_unknown_or_revoked_credential_is_refused(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=bearer_metadata("wrong"))
    refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
    caller = await world.enrol("north")
    async with world.context.database.transaction() as session:
        await revoke_client(session, await get_client(session, "trial", "north"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    assert "revoked" in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_a_token_works_once_and_for_its_kind(world: World) -> None:
    async with world.context.database.transaction() as session:
        _, token = await invite_client(session, "trial", "north", ClientKind.IMAGE, timedelta(hours=1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.Enroll(pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_TEXT))
    refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "conflict")
    request = pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE)
    await world.agents.Enroll(request)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.Enroll(request)
    refused(raised, grpc.StatusCode.ALREADY_EXISTS, "already-enrolled")


async def test_a_client_downloads_only_what_its_task_names(world: World) -> None:
    caller = await world.enrol("north")
    await world.start_round()
    await world.prepare()

    async def download(content: bytes, offset: int) -> bytes:
        request = pb.DownloadArtifactRequest(sha256=sha256_of(content), offset_bytes=offset)
        return b"".join([part.data async for part in world.agents.DownloadArtifact(request, metadata=caller)])

    assert await download(b"reps", 0) == b"reps"
    assert await download(b"reps", 2) == b"ps"
    for foreign in (b"text", b"state"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await download(foreign, 0)
        refused(raised, grpc.StatusCode.PERMISSION_DENIED, "forbidden")


async def test_a_chunk_without_its_hash_is_refused_and_stays_missing(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    begin = pb.BeginUploadRequest(
        round_id=round_id,
        purpose="representations",
        sha256=sha256_of(b"blob"),
        size_bytes=4,
        chunk_size_bytes=65536,
        chunk_sha256=[hashlib.sha256(b"blob").hexdigest()],
    )
    begun = await world.agents.BeginUpload(begin, metadata=caller)
    message = pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=b"blub")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.UploadChunks(iter([message]), metadata=caller)
    refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")
    assert list((await world.agents.BeginUpload(begin, metadata=caller)).missing_chunks) == [0]


async def test_nothing_is_taken_for_a_round_that_does_not_wait(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    progress = await world.agents.ReportProgress(pb.ReportProgressRequest(round_id=round_id), metadata=caller)
    assert not progress.keep_going
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.LeaveRound(pb.LeaveRoundRequest(round_id=round_id), metadata=caller)
    refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "round-closed")


async def test_a_stage_is_claimed_by_one_distiller_at_a_time(world: World) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    request = distillation_pb2.ClaimStageRequest(stage_id=stage_id, worker="a")
    assert (await world.distillers.ClaimStage(request, metadata=INTERNAL)).token == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.distillers.ClaimStage(request, metadata=INTERNAL)
    refused(raised, grpc.StatusCode.ABORTED, "stage-lost")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.distillers.ClaimStage(request, metadata=bearer_metadata("wrong"))
    refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_a_stage_that_fails_three_times_fails_its_round(world: World) -> None:
    round_id = await world.start_round()
    for _ in range(3):
        stage_id = world.sent[-1][1]
        claimed = await world.distillers.ClaimStage(
            distillation_pb2.ClaimStageRequest(stage_id=stage_id), metadata=INTERNAL
        )
        failure = distillation_pb2.FailStageRequest(
            stage_id=stage_id, token=claimed.token, reason="store away", retryable=True
        )
        await world.distillers.FailStage(failure, metadata=INTERNAL)
        await world.coordinate()
    row = await world.round(round_id)
    assert (row.state, row.reason) == ("failed", "stage prepare failed: store away")


async def test_a_second_coordinator_waits_and_then_fences_the_first(world: World) -> None:
    database = world.context.database
    first = world.coordinator
    second = Coordinator(world.context, Outbox(database, lambda kind, stage: None), lease_seconds=0.01)
    await world.enrol("north")
    round_id = await world.start_round()
    assert not await second.look()
    await first._release()
    stale = await world.round(round_id)
    await world.prepare()
    async with database.transaction() as session:
        from fedafd.domain.states import RoundState
        from fedafd.persistence.round_repository import transition_round

        assert not await transition_round(session, stale, RoundState.COLLECTING, token=1, actor="stale")
