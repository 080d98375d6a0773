"""Sites that train nothing: what they cost is what a round costs beside training.

Each waits for a round, downloads what its task names but the public set, uploads one blob and commits it, over the same
calls as an agent. Many fit into one process, on a few connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.rpc.channel import MAX_MESSAGE_BYTES
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

__all__ = ["CHUNK_BYTES", "WITHOUT_KEYS", "Blob", "LightSite", "enrolled_sites"]

WITHOUT_KEYS = {"FEDAFD_AGGREGATOR_REQUIRE_CLIENT_KEYS": "false"}
"""For an aggregator of light sites, which sign nothing: a thousand of them share a process and its time."""

CHUNK_BYTES = 1 << 20
_SITES_OF_A_CONNECTION = 25
_WAIT_SECONDS = 60
_BROKEN_LINE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_PAUSE_SECONDS = 1.0
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES))


@dataclass(frozen=True)
class Blob:
    """What a site sends, announced chunk by chunk."""

    size_bytes: int
    sha256: str
    chunks: tuple[bytes, ...]
    chunk_sha256: tuple[str, ...]

    @classmethod
    def of(cls, content: bytes, held: dict[str, bytes] | None = None) -> Blob:
        """Cut and hash it. `held` are chunks by hash: equal ones of several blobs lie in memory once."""
        held = {} if held is None else held
        chunks = (content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES))
        hashed = [(hashlib.sha256(chunk).hexdigest(), chunk) for chunk in chunks]
        kept = tuple(held.setdefault(sha256, chunk) for sha256, chunk in hashed)
        return cls(len(content), hashlib.sha256(content).hexdigest(), kept, tuple(sha256 for sha256, _ in hashed))


@dataclass
class LightSite:
    """One enrolled client."""

    stub: AggregatorServiceStub
    metadata: tuple[tuple[str, str], ...]
    bytes_down: int = 0
    num_polls: int = 0
    num_broken: int = 0
    """Calls that ended because the line did."""
    accepted: list[int] = field(default_factory=list)
    """Numbers of the rounds that its delivery counted in."""
    delivered_at: float = 0.0
    """When its last delivery was accepted, in seconds since the epoch."""
    trains_seconds: float = 0.0
    """For so long it does nothing between its downloads and its upload."""

    async def run(self, blob: Blob) -> None:
        """Take part in each round, until cancelled; after a broken line once more, as an agent does."""
        known = 0
        while True:
            try:
                known = await self._next(known, blob)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _BROKEN_LINE:
                    raise
                self.num_broken, known = self.num_broken + 1, 0
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _next(self, known: int, blob: Blob) -> int:
        """Wait for a task other than the one of revision `known`, and do it; its revision."""
        request = pb.FetchTaskRequest(wait=Duration(seconds=_WAIT_SECONDS), known_revision=known)
        task: pb.FetchTaskResponse = await self.stub.FetchTask(request, metadata=self.metadata)
        self.num_polls += 1
        if task.HasField("train") and task.train.round_number not in self.accepted:
            await self._take_part(task.train, blob)
        return task.revision

    async def _take_part(self, task: pb.TrainTask, blob: Blob) -> None:
        for artifact in (*task.encoder_bundles, task.global_representations):
            request = pb.DownloadArtifactRequest(sha256=artifact.sha256)
            async for message in self.stub.DownloadArtifact(request, metadata=self.metadata):
                self.bytes_down += len(message.data)
        await asyncio.sleep(self.trains_seconds)
        begin = pb.BeginUploadRequest(
            round_id=task.round_id,
            upload_purpose=pb.UPLOAD_PURPOSE_REPRESENTATIONS,
            sha256=blob.sha256,
            size_bytes=blob.size_bytes,
            chunk_size_bytes=CHUNK_BYTES,
            chunk_sha256=blob.chunk_sha256,
        )
        begun = await self.stub.BeginUpload(begin, metadata=self.metadata)
        if begun.missing_chunks:  # none after a broken line, where all had arrived
            await self.stub.UploadChunks(_messages(begun, blob), metadata=self.metadata)
        commit = pb.CommitUploadRequest(round_id=task.round_id, upload_ids=[begun.upload_id])
        receipt = await self.stub.CommitUpload(commit, metadata=self.metadata)
        if not receipt.accepted:
            raise AssertionError(receipt.rejection_reason)
        self.delivered_at = time.time()
        self.accepted.append(task.round_number)


def _messages(begun: pb.BeginUploadResponse, blob: Blob) -> Iterator[pb.UploadChunksRequest]:
    for index in begun.missing_chunks:
        yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=index, data=blob.chunks[index])


@asynccontextmanager
async def enrolled_sites(address: str, tokens: Sequence[str], *more: str) -> AsyncIterator[list[LightSite]]:
    """A pair client for each enrolment token, some on each connection; these take turns over the addresses."""
    addresses = (address, *more)
    async with AsyncExitStack() as stack:
        sites: list[LightSite] = []
        for number, token in enumerate(tokens):
            if number % _SITES_OF_A_CONNECTION == 0:
                turn = addresses[number // _SITES_OF_A_CONNECTION % len(addresses)]
                channel = grpc.aio.insecure_channel(turn, options=_OWN_CONNECTION)
                stub = AggregatorServiceStub(await stack.enter_async_context(channel))
            answer = await stub.Enroll(pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_PAIR))
            own = (*bearer_metadata(answer.credential), *session_metadata(secrets.token_hex(8)))
            sites.append(LightSite(stub, own))
        yield sites
