"""An aggregator in memory that keeps the wire's promises and can be told to break them on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from fedafd.artifacts.blocks import block_digests, block_length
from fedafd.domain.config import parse_federation_config
from fedafd.domain.kinds import ParticipantKind
from fedafd.domain.leaving import LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceServicer, add_AggregatorServiceServicer_to_server
from fedafd.rpc.codes import activity_from_wire, client_kind_from_wire, leave_reason_from_wire, purpose_from_wire
from fedafd.rpc.sessions import sessions_in

TOKEN = "fedafd-enrol.good"
CREDENTIAL = "fedafd-client.good"


class _Recorder(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Keeps what comes over the wire, byte for byte, and counts the requests that are no part of a delivery."""

    def __init__(self, server: FakeAggregator) -> None:
        self._wire, self._server = server.wire, server

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        for key, value in details.invocation_metadata or ():
            self._wire.append(f"{key}: {value!s}".encode())

        def deserialize(message: bytes) -> Any:
            self._wire.append(message)
            method = details.method.rpartition("/")[2]
            if method not in ("Enroll", "UploadChunks", "CommitUpload", "LeaveRound"):
                self._server.small_calls[method] += 1
                self._server.small_bytes += len(message)
            return handler.request_deserializer(message)

        kinds = ("unary", "stream")
        kind = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(getattr(handler, kind), deserialize, handler.response_serializer)


class _Surprising(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Ends calls with codes that no handler gives."""

    def __init__(self, due: dict[str, list[grpc.StatusCode]]) -> None:
        self._due = due

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        due = self._due.get(details.method.rpartition("/")[2])
        if not due:
            return handler
        code = due.pop(0)

        async def single(_: Any, context: Any) -> None:
            await context.abort(code, "a surprise")

        async def stream(_: Any, context: Any) -> AsyncIterator[Any]:
            await context.abort(code, "a surprise")
            yield

        kinds = ("unary", "stream")
        kind = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        inner = stream if handler.response_streaming else single
        return make(inner, handler.request_deserializer, handler.response_serializer)


@dataclass
class Upload:
    """One announced blob and the chunks that came."""

    request: pb.BeginUploadRequest
    chunks: dict[int, bytes] = field(default_factory=dict)

    def content(self) -> bytes:
        return b"".join(self.chunks[index] for index in range(len(self.request.chunk_sha256)))


class FakeAggregator(AggregatorServiceServicer):
    """Serves one client, whose desired state is `task`; counts what it is asked."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, Upload] = {}
        self.commits: list[pb.CommitUploadRequest] = []
        self.left: list[LeaveReason] = []
        self.progress: list[tuple[float, str]] = []
        self.work_done: list[int] = []
        self.federation_id = "f"
        self.invited = ParticipantKind.IMAGE
        self.client_name = "site-a"
        self.credential = CREDENTIAL
        """What it gives."""
        self.wire: list[bytes] = []
        """Every message and every piece of metadata that came, in order."""
        self.small_calls: Counter[str] = Counter()
        self.small_bytes = 0
        self.downloads: list[tuple[str, int]] = []
        self.token_used = False
        self.nonces: list[bytes] = []
        self.lost_enrolments = 0
        self.revision = 1
        self.task = pb.FetchTaskResponse(revision=1, idle=pb.IdleTask(reason="no round"))
        self.changed = asyncio.Event()
        self.sent_bytes = 0
        # Faults.
        self.describes: Callable[[bytes], bytes] | None = lambda digests: digests
        """What it makes of a blob's digests; None: it knows no such call."""
        self.break_downloads = 0
        self.corrupt_downloads = 0
        self.break_uploads = 0
        self.break_commits = 0
        self.reject: str | None = None
        self.keep_going = True
        self.revoked = False
        self.in_use = False
        self.goodbyes = 0
        self.surprises: dict[str, list[grpc.StatusCode]] = {}
        """Of an RPC the codes that its next calls end with."""
        self._server: grpc.aio.Server | None = None
        self.address = ""

    async def start(self, address: str = "127.0.0.1:0") -> None:
        self._server = grpc.aio.server(interceptors=[_Recorder(self), _Surprising(self.surprises)])
        add_AggregatorServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    def put(self, content: bytes, purpose: str) -> types_pb2.Artifact:
        sha = hashlib.sha256(content).hexdigest()
        self.blobs[sha] = content
        return types_pb2.Artifact(sha256=sha, size_bytes=len(content), purpose=purpose)

    def assign(
        self,
        number: int = 1,
        *,
        blob_bytes: int = 3_000_000,
        accepts_model: bool = False,
        takes_parts: bool = False,
        strategy: str = "fedafd",
        bundle: bytes | None = None,
        public_set: bytes = b"manifest",
        **federation: Any,
    ) -> None:
        """Make the client train for a round."""
        manifest = self.put(public_set, "public-set/manifest")
        self.set_task(
            train=pb.TrainTask(
                round_id=f"round-{number}",
                round_number=number,
                federation_config_json=parse_federation_config(
                    {"name": "f", "strategy": strategy} | federation
                ).sites_json(),
                seed=number,
                public_set_sha256=manifest.sha256,
                public_set=[manifest, self.put(b"shard" * (blob_bytes // 5), "public-set/shard")],
                global_representations=self.put(b"reps %d" % number, "representations"),
                encoder_bundles=[self.put(bundle or b"bundle %d" % number, "encoder-bundle/image")],
                accepts_personalized_model=accepts_model,
                takes_model_in_parts=takes_parts,
            )
        )

    def set_task(self, **task: Any) -> None:
        self.revision += 1
        self.task = pb.FetchTaskResponse(revision=self.revision, **task)
        self.changed.set()

    async def _refuse(self, context: Any, status: grpc.StatusCode, code: str, text: str) -> None:
        await context.abort(status, text, (("fedafd-error-code", code),))

    async def _authenticate(self, context: Any) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {CREDENTIAL}" or self.revoked:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", "revoked")
        sessions_in(context.invocation_metadata())
        if self.in_use:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "identity-in-use", "another agent")

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:
        self.nonces.append(request.nonce)
        repeated = self.token_used and request.nonce and request.nonce == self.nonces[0]
        if request.token != TOKEN or (self.token_used and not repeated):
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", "unknown or used-up token")
        if client_kind_from_wire(request.kind) is not self.invited:
            await self._refuse(
                context, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request", f"invited as {self.invited}"
            )
        self.token_used = True
        if self.lost_enrolments:
            self.lost_enrolments -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cable cut after the enrolment")
        return pb.EnrollResponse(
            federation_id=self.federation_id, client_id="1", client_name=self.client_name, credential=self.credential
        )

    async def FetchTask(self, request: pb.FetchTaskRequest, context: Any) -> pb.FetchTaskResponse:
        await self._authenticate(context)
        if request.known_revision == self.task.revision:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), request.wait.ToMilliseconds() / 1000)
        return self.task

    async def ReportProgress(self, request: pb.ReportProgressRequest, context: Any) -> pb.ReportProgressResponse:
        await self._authenticate(context)
        if request.alive_only:
            return pb.ReportProgressResponse(keep_going=self.keep_going)
        self.work_done.append(request.work_done)
        self.progress.append((request.fraction, str(activity_from_wire(request.doing, request.step, request.steps))))
        return pb.ReportProgressResponse(keep_going=self.keep_going)

    async def DescribeArtifact(self, request: pb.DescribeArtifactRequest, context: Any) -> pb.DescribeArtifactResponse:
        await self._authenticate(context)
        if self.describes is None:
            answer: pb.DescribeArtifactResponse = await super().DescribeArtifact(request, context)  # type: ignore[no-untyped-call]
            return answer
        content = self.blobs[request.sha256]
        length = block_length(len(content))
        return pb.DescribeArtifactResponse(block_bytes=length, digests=self.describes(block_digests([content], length)))

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        await self._authenticate(context)
        self.downloads.append((request.sha256, request.offset_bytes))
        content = self.blobs[request.sha256]
        if self.corrupt_downloads and len(content) > 1 << 20:
            self.corrupt_downloads -= 1
            content = b"?" * len(content)
        spans = [(each.offset_bytes, each.offset_bytes + each.length_bytes) for each in request.ranges]
        wanted = b"".join(content[start:end] for start, end in spans) if spans else content[request.offset_bytes :]
        for start in range(0, len(wanted), 1 << 20):
            yield pb.DownloadArtifactResponse(data=wanted[start : start + (1 << 20)])
            self.sent_bytes += len(wanted[start : start + (1 << 20)])
            if self.break_downloads and len(content) > 1 << 20:
                self.break_downloads -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cable cut")

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: Any) -> pb.BeginUploadResponse:
        await self._authenticate(context)
        upload_id = f"{purpose_from_wire(request.upload_purpose)}-{request.sha256[:8]}"
        upload = self.uploads.setdefault(upload_id, Upload(request))
        missing = [index for index in range(len(request.chunk_sha256)) if index not in upload.chunks]
        return pb.BeginUploadResponse(upload_id=upload_id, missing_chunks=missing)

    async def UploadChunks(
        self, requests: AsyncIterator[pb.UploadChunksRequest], context: Any
    ) -> pb.UploadChunksResponse:
        await self._authenticate(context)
        upload, accepted = None, 0
        async for request in requests:
            upload = upload or self.uploads[request.upload_id]
            assert request.index not in upload.chunks, "a chunk was sent twice"
            assert hashlib.sha256(request.data).hexdigest() == upload.request.chunk_sha256[request.index]
            upload.chunks[request.index] = request.data
            accepted += 1
            if self.break_uploads:
                self.break_uploads -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cable cut")
        return pb.UploadChunksResponse(accepted_chunks=accepted)

    async def CommitUpload(self, request: pb.CommitUploadRequest, context: Any) -> pb.CommitUploadResponse:
        await self._authenticate(context)
        self.commits.append(request)
        for upload_id in request.upload_ids:
            content = self.uploads[upload_id].content()
            assert hashlib.sha256(content).hexdigest() == self.uploads[upload_id].request.sha256
        if self.break_commits:
            self.break_commits -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cable cut after the commit")
        if self.task.HasField("train"):
            self.set_task(idle=pb.IdleTask(reason="delivered"))
        return pb.CommitUploadResponse(
            receipt="receipt", accepted=self.reject is None, rejection_reason=self.reject or ""
        )

    async def LeaveRound(self, request: pb.LeaveRoundRequest, context: Any) -> pb.LeaveRoundResponse:
        await self._authenticate(context)
        self.left.append(leave_reason_from_wire(request.leave_reason))
        self.set_task(idle=pb.IdleTask(reason="left"))
        return pb.LeaveRoundResponse()

    async def EndSession(self, request: pb.EndSessionRequest, context: Any) -> pb.EndSessionResponse:
        await self._authenticate(context)
        self.goodbyes += 1
        return pb.EndSessionResponse()
