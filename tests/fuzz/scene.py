"""A real aggregator process on a real database, with rounds that collect, for fuzzers to call."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import Engine, create_engine, inspect, text
from tests.databases import migrated
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import wait_until

from fedafd.artifacts.representations import encode_representations
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.config import FederationConfig, WireDtype
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality, ParticipantKind
from fedafd.local.services import Backends, Services
from fedafd.local.supervisor import Child
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.database import Database, driver_url
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.round_repository import add_rounds
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2 as dpb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.channel import MAX_MESSAGE_BYTES
from fedafd.rpc.client_key import ClientKey, certificate_text
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata
from fedafd.storage import ObjectStore, StoreSettings, open_store

__all__ = ["DIM", "NUM_PUBLIC", "TOKEN", "Metadata", "Open", "Scene", "path_of", "scene_on"]

TOKEN = "fedafd-internal.of-the-fuzzers-scene"
DIM, NUM_PUBLIC = 8, 6
Metadata = tuple[tuple[str, str], ...]
_AGENTS = "/fedafd.v1.AggregatorService"
_ALSO_KEYLESS = {"FEDAFD_AGGREGATOR_REQUIRE_CLIENT_KEYS": "false"}
"""As while a deployment of early versions is being updated: both kinds of credential are tried."""
_INTERNAL = bearer_metadata(TOKEN)


@dataclass
class Site:
    """An enrolled client: its credential, and its key if it has one."""

    secret: str
    key: ClientKey | None = None
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    likely: dict[str, Message] = field(default_factory=dict)
    """Requests that would do, and that are its own."""

    def metadata(self, path: str) -> Metadata:
        """What its call of that method carries."""
        proof = self.key.metadata(self.secret, path) if self.key else ()
        return (*bearer_metadata(self.secret), *session_metadata(self.session), *proof)


@dataclass
class Open:
    """A federation whose round collects: its clients, and a request of each RPC that would do."""

    name: str
    round_id: str
    sites: list[Site]
    likely: dict[str, Message]


@dataclass
class Scene:
    """What the fuzzers hold."""

    services: Services
    aggregator: Child
    channel: grpc.Channel
    store: ObjectStore
    engine: Engine
    database_url: str
    public_sha256: str
    _count: int = 0

    # -- calling -----------------------------------------------------------------------------------------------------

    def call(
        self, method: MethodDescriptor, requests: list[Any], metadata: Metadata, seconds: float = 20.0
    ) -> list[Message]:
        """The answers to a call of any method; a request may be bytes. Raises grpc.RpcError."""
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        answer_of = GetMessageClass(method.output_type).FromString
        stub = getattr(self.channel, kind)(path_of(method), _bytes_of, answer_of)
        sent = iter(requests) if method.client_streaming else requests[0]
        answer = stub(sent, metadata=metadata, timeout=seconds)
        return list(answer) if method.server_streaming else [answer]

    # -- what lies in the database -----------------------------------------------------------------------------------

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        with self.engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            return {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in tables}

    def column(self, query: str, **values: Any) -> list[Any]:
        """The first column of what a query finds."""
        with self.engine.connect() as connection:
            return list(connection.scalars(text(query), values))

    def resident_bytes(self) -> int:
        """Of the aggregator's process."""
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """The most that was resident since the process began, or since `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """What is resident at this moment is the peak."""
        Path(f"/proc/{self.aggregator.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self.aggregator.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))

    def troubles(self) -> list[str]:
        """What the aggregator logged that nobody should see: failures, traces, lines that are no event."""
        found = []
        for line in self.aggregator.log.read_text(encoding="utf-8").splitlines():
            event = json.loads(line) if line.startswith("{") else {"level": "no event"}
            if event["level"] not in ("debug", "info", "warning") or "exception" in event:
                found.append(line)
        return found

    # -- rounds ------------------------------------------------------------------------------------------------------

    def open(self, num_sites: int, **config: Any) -> Open:
        """A new federation with so many image clients, most with a key, and a round that waits for them."""
        agents, distillers = AggregatorServiceStub(self.channel), DistillationServiceStub(self.channel)
        opened, token = self._begin(num_sites + 2, keys=lambda number: number % 3 != 2, config=config)
        sites, round_id, recorded = opened.sites, opened.round_id, opened.likely
        for _ in range(2):
            self._deliver(agents, sites.pop(0), round_id, recorded)
        recorded["Enroll"] = pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE)
        wait_until(lambda: len(self._stages(round_id)) == 3, "both folds")
        self._fold(distillers, round_id, recorded)
        for site in sites:
            self._announce(agents, site, recorded)
        return opened

    def collecting(self, num_sites: int, bundle: bytes = b"", **config: Any) -> Open:
        """A new federation with so many image clients, each with a key, and a round in which nobody did anything yet.

        `bundle`: the encoder that they are to download.
        """
        return self._begin(num_sites, keys=lambda _: True, config=config, bundle=bundle)[0]

    def _begin(
        self, num_sites: int, *, keys: Callable[[int], bool], config: dict[str, Any], bundle: bytes = b""
    ) -> tuple[Open, str]:
        """As `collecting`, and the token of one more client; who has a key is said by its number."""
        self._count += 1
        name = f"trial-{self._count}"
        round_id, tokens = asyncio.run(self._add(name, num_sites + 1, config))
        agents, distillers = AggregatorServiceStub(self.channel), DistillationServiceStub(self.channel)
        recorded: dict[str, Message] = {}
        sites = [self._enrol(agents, token, keyed=keys(number)) for number, token in enumerate(tokens[:-1])]
        self._prepare(distillers, round_id, recorded, bundle)
        wait_until(lambda: self._state(round_id) == "collecting", "the round")
        return Open(name, round_id, sites, recorded), tokens[-1]

    def waits(self, opened: Open) -> bool:
        """Whether the round still waits for some client."""
        query = "SELECT count(*) FROM participations WHERE round_id = :id AND state IN ('invited', 'training')"
        return self._state(opened.round_id) == "collecting" and self.column(query, id=opened.round_id) != [0]

    def _stages(self, round_id: str) -> list[str]:
        return self.column("SELECT id FROM stages WHERE round_id = :id", id=round_id)

    def _state(self, round_id: str) -> str:
        return str(self.column("SELECT state FROM rounds WHERE id = :id", id=round_id)[0])

    async def _add(self, name: str, num_clients: int, config: dict[str, Any]) -> tuple[str, list[str]]:
        database = Database(self.database_url)
        values = FederationConfig.model_validate({"name": name, "embedding_dim": DIM} | config).model_dump(mode="json")
        async with database.transaction() as session:
            federation = await add_federation(session, name, values)
            federation.public_set_sha256 = self.public_sha256
            tokens = []
            for number in range(num_clients):
                kind, lifetime = ParticipantKind.IMAGE, timedelta(hours=1)
                tokens.append((await invite_client(session, name, f"site-{number}", kind, lifetime))[1])
        async with database.transaction() as session:
            (row,) = await add_rounds(session, name, values, self.public_sha256, 1)
        await database.close()
        return row.id, tokens

    def _enrol(self, agents: AggregatorServiceStub, token: str, *, keyed: bool) -> Site:
        key = ClientKey() if keyed else None
        request = pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE, nonce=secrets.token_bytes(16))
        if key is not None:
            request.certificate_request = key.request()
        answer = agents.Enroll(request)
        if key is not None:
            key = ClientKey(key.pem(), certificate_text(answer.certificate))
        return Site(answer.credential, key)

    def _prepare(
        self, distillers: DistillationServiceStub, round_id: str, recorded: dict[str, Message], bundle: bytes
    ) -> None:
        wait_until(lambda: bool(self._stages(round_id)), "the first stage")
        (stage_id,) = self._stages(round_id)
        stage = distillers.ClaimStage(dpb.ClaimStageRequest(stage_id=stage_id, worker="script"), metadata=_INTERNAL)
        outputs = []
        for name in ("server-state", "representations", "encoder-bundle/image", "encoder-bundle/text"):
            content = bundle if bundle and name == "encoder-bundle/image" else f"{name} of {round_id}".encode()
            key = f"{stage.output_prefix}{name}/{sha256_of(content)}"
            self.store.put(key, content)
            artifact = types_pb2.Artifact(sha256=sha256_of(content), size_bytes=len(content), purpose=name, key=key)
            outputs.append(dpb.NamedArtifact(name=name, artifact=artifact))
        done = dpb.CompleteStageRequest(stage_id=stage_id, token=stage.token, outputs=outputs, metrics={"rsum": 1.0})
        distillers.CompleteStage(done, metadata=_INTERNAL)
        recorded["DescribeMaker"] = dpb.DescribeMakerRequest(stage_id=stage_id, key=outputs[0].artifact.key)

    def _fold(self, distillers: DistillationServiceStub, round_id: str, recorded: dict[str, Message]) -> None:
        """Claim the folds of what was delivered: one to complete, one to give up."""
        folds = self.column("SELECT id FROM stages WHERE round_id = :id AND kind = 'fold'", id=round_id)
        claims = [dpb.ClaimStageRequest(stage_id=stage_id, worker="script") for stage_id in folds]
        (first, given_up) = (distillers.ClaimStage(claim, metadata=_INTERNAL) for claim in claims)
        key = f"{first.output_prefix}sed-state/{folds[0]}"
        state = types_pb2.Artifact(sha256="0" * 64, size_bytes=1, purpose="sed-state", key=key)
        own: dict[str, Any] = {"stage_id": folds[0], "token": first.token}
        recorded |= {
            "ClaimStage": claims[0],
            "ReportStageProgress": dpb.ReportStageProgressRequest(**own, fraction=0.5, activity="test"),
            "CompleteStage": dpb.CompleteStageRequest(
                **own, outputs=[dpb.NamedArtifact(name="sed-state", artifact=state)], metrics={"rows": 1.0}
            ),
            "FailStage": dpb.FailStageRequest(stage_id=folds[1], token=given_up.token, reason="test", retryable=True),
        }

    def _announce(self, agents: AggregatorServiceStub, site: Site, recorded: dict[str, Message]) -> None:
        """What another has delivered, in the site's own name."""
        begun = agents.BeginUpload(recorded["BeginUpload"], metadata=site.metadata(f"{_AGENTS}/BeginUpload"))
        chunk = pb.UploadChunksRequest.FromString(recorded["UploadChunks"].SerializeToString())
        chunk.upload_id = begun.upload_id
        commit = pb.CommitUploadRequest.FromString(recorded["CommitUpload"].SerializeToString())
        commit.upload_ids[:] = [begun.upload_id]
        site.likely = {"UploadChunks": chunk, "CommitUpload": commit}
        if site.key is not None:
            site.likely["RenewCertificate"] = pb.RenewCertificateRequest(certificate_request=site.key.request())

    def _deliver(self, agents: AggregatorServiceStub, site: Site, round_id: str, recorded: dict[str, Message]) -> None:
        rows_ND = np.eye(NUM_PUBLIC, DIM, dtype=np.float32)
        blob = encode_representations({Modality.IMAGE: rows_ND}, self.public_sha256, WireDtype.FLOAT16)
        begin = pb.BeginUploadRequest(
            round_id=round_id,
            upload_purpose=pb.UPLOAD_PURPOSE_REPRESENTATIONS,
            sha256=sha256_of(blob),
            size_bytes=len(blob),
            chunk_size_bytes=65536,
            chunk_sha256=[sha256_of(blob)],
        )

        def own(name: str) -> Metadata:
            return site.metadata(f"{_AGENTS}/{name}")

        task = agents.FetchTask(pb.FetchTaskRequest(), metadata=own("FetchTask"))
        begun = agents.BeginUpload(begin, metadata=own("BeginUpload"))
        chunk = pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=blob)
        agents.UploadChunks(iter([chunk]), metadata=own("UploadChunks"))
        commit = pb.CommitUploadRequest(round_id=round_id, upload_ids=[begun.upload_id])
        assert agents.CommitUpload(commit, metadata=own("CommitUpload")).accepted
        bundle = task.train.encoder_bundles[0].sha256
        recorded |= {
            "FetchTask": pb.FetchTaskRequest(),
            "ReportProgress": pb.ReportProgressRequest(
                round_id=round_id, fraction=0.5, doing=pb.CLIENT_ACTIVITY_TRAINING, step=1, steps=2, work_done=3
            ),
            "BeginUpload": begin,
            "UploadChunks": chunk,
            "CommitUpload": commit,
            "DescribeArtifact": pb.DescribeArtifactRequest(sha256=bundle),
            "DownloadArtifact": pb.DownloadArtifactRequest(sha256=bundle),
            "LeaveRound": pb.LeaveRoundRequest(round_id=round_id, leave_reason=pb.LEAVE_REASON_DISK_FULL),
            "EndSession": pb.EndSessionRequest(),
        }


def path_of(method: MethodDescriptor) -> str:
    """As it stands on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def _bytes_of(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


@contextmanager
def scene_on(
    database_url: str,
    redis_url: str,
    folder: Path,
    *,
    store: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Scene]:
    """The aggregator's process, its database migrated, and nothing in it.

    `store`: settings of an object store in place of a folder. `settings`: further variables of all processes.
    """
    migrated(database_url)
    backends = Backends(database_url=database_url, redis_url=redis_url, store=store or {"URL": str(folder / "store")})
    opened = open_store(StoreSettings.model_validate({key.lower(): value for key, value in backends.store.items()}))
    data = load_public_data("shapes", None, {"num_train": NUM_PUBLIC, "num_val": 1, "num_test": 1})
    manifest = write_public_set(data, folder)
    opened.put(f"public-sets/{manifest.sha256}/manifest.json", manifest.to_bytes())
    for shard in manifest.shards:
        opened.put_file(f"public-sets/{manifest.sha256}/{shard.name}", folder / shard.name)
    with LoggedSupervisor(folder / "logs") as supervisor:
        services = Services(
            supervisor,
            backends,
            http_port=None,
            threads=1,
            settings={**_ALSO_KEYLESS, **settings},
            internal_token=TOKEN,
        )
        aggregator = services.start_aggregator()
        options = (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1))
        engine = create_engine(driver_url(database_url, asynchronous=False))
        with grpc.insecure_channel(services.aggregator, options=options) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=60)
                yield Scene(services, aggregator, channel, opened, engine, database_url, manifest.sha256)
            finally:
                engine.dispose()
