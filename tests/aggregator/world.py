"""An aggregator with its coordinator in this process, agents and distillers as scripts over real gRPC."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.shared_reads import SharedReads
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality, ParticipantKind, StageKind, UploadPurpose
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import RoundRow
from fedafd.persistence.round_repository import add_rounds, get_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2, types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.codes import wire_purpose
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata
from fedafd.storage import ObjectStore

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
    seen: list[tuple[str, str, str]]

    def use_store(self, store: ObjectStore) -> None:
        """The aggregator works with that store from here on."""
        object.__setattr__(self.context, "store", store)
        object.__setattr__(self.context, "downloads", SharedReads(store))

    def has_led_for_long(self) -> None:
        """The coordinator has: who was not heard of in that time is silent."""
        self.coordinator._leading_since = -1e9

    async def coordinate(self) -> None:
        while await self.coordinator.look():
            pass

    async def enrol(
        self, name: str, kind: ClientKind | ParticipantKind = ClientKind.IMAGE, max_clients: int | None = None
    ) -> tuple[tuple[str, str], ...]:
        kind, lifetime = ParticipantKind(kind), timedelta(hours=1)
        async with self.context.database.transaction() as session:
            _, token = await invite_client(session, "trial", name, kind, lifetime, max_clients=max_clients)
        wire = {
            ParticipantKind.IMAGE: types_pb2.CLIENT_KIND_IMAGE,
            ParticipantKind.TEXT: types_pb2.CLIENT_KIND_TEXT,
            ParticipantKind.PAIR: types_pb2.CLIENT_KIND_PAIR,
            ParticipantKind.REGION: types_pb2.CLIENT_KIND_REGION,
        }[kind]
        answer = await self.agents.Enroll(pb.EnrollRequest(token=token, kind=wire))
        return (*bearer_metadata(answer.credential), *session_metadata(secrets.token_hex(8)))

    async def start_round(self, **config: object) -> str:
        async with self.context.database.transaction() as session:
            federation = await get_federation(session, "trial")
            values = federation.config | config
            (row,) = await add_rounds(session, "trial", values, self.public_sha256, 1)
        await self.coordinate()
        return row.id

    async def distil(self, kind: StageKind, /, *, nth: int = -1, **outputs: bytes) -> list[str]:
        """Claim an announced stage of a kind, the newest, and complete it with these outputs; its inputs' names."""
        stage_id = [stage for sent, stage in self.sent if sent is kind][nth]
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
        return [each.name for each in claim.inputs]

    async def prepare(self) -> None:
        outputs: dict[str, Any] = {"server_state": b"state", "representations": b"reps"}
        await self.distil(StageKind.PREPARE, **outputs, encoder_bundle__image=b"image", encoder_bundle__text=b"text")

    async def round(self, round_id: str) -> RoundRow:
        async with self.context.database.transaction() as session:
            return await get_round(session, round_id)

    async def upload(
        self, caller: tuple[tuple[str, str], ...], round_id: str, blob: bytes, purpose: str = "representations"
    ) -> str:
        chunks = [blob[i : i + 65536] for i in range(0, len(blob), 65536)]
        begin = pb.BeginUploadRequest(
            round_id=round_id,
            upload_purpose=wire_purpose(UploadPurpose(purpose)),
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

    async def deliver(
        self, caller: tuple[tuple[str, str], ...], round_id: str, blob: bytes, purpose: str = "representations"
    ) -> pb.CommitUploadResponse:
        upload_id = await self.upload(caller, round_id, blob, purpose)
        request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id], metrics={"federated/acc1": 50.0})
        answer: pb.CommitUploadResponse = await self.agents.CommitUpload(request, metadata=caller)
        return answer

    def reps(self, num: int = 6, dim: int = DIM, sha256: str | None = None, **options: object) -> bytes:
        rows = np.eye(max(num, dim), dim, dtype=np.float32)[:num]
        rows[rows.sum(1) == 0, 0] = 1
        if options.get("poison"):
            rows[2, 1] = np.nan
        dtype = WireDtype(str(options.get("dtype", "float16")))
        return encode_representations({Modality.IMAGE: rows}, sha256 or self.public_sha256, dtype)


def refused(raised: pytest.ExceptionInfo[grpc.aio.AioRpcError], status: grpc.StatusCode, code: str) -> str:
    assert raised.value.code() is status
    assert error_code(raised.value) == code
    return str(raised.value.details())


def error_code(error: grpc.aio.AioRpcError) -> str:
    """FedAFD's own code of a refusal."""
    metadata: Any = error.trailing_metadata() or ()
    return str(dict(metadata)["fedafd-error-code"])
