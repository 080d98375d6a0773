"""AggregatorService: what agents call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from fedafd.aggregator.arrivals import ArrivingBlob, Stream
from fedafd.aggregator.context import Context
from fedafd.aggregator.delivery import commit_delivery
from fedafd.aggregator.described import describe
from fedafd.aggregator.enrolling import enrol, renew_certificate
from fedafd.aggregator.identity import caller_of, calling_client
from fedafd.aggregator.making_again import check_stored, make_again
from fedafd.aggregator.progress import Report
from fedafd.aggregator.tasks import desired_task, find_artifact
from fedafd.aggregator.types import Call
from fedafd.aggregator.uploads import announced_upload, begin_upload, open_participation
from fedafd.artifacts.blocks import Span, checked_spans
from fedafd.domain.errors import (
    ArtifactNotFoundError,
    ForbiddenError,
    InvalidRequestError,
    RoundClosedError,
    StorageFullError,
    StorageUnavailableError,
    UploadError,
)
from fedafd.domain.leaving import LEFT, ActivityKind, leave_words
from fedafd.domain.states import ParticipationState
from fedafd.persistence.caller_repository import CallingClient, WaitingPart
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.participation_repository import settle_participation
from fedafd.persistence.session_repository import end_session
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceServicer
from fedafd.rpc.codes import activity_from_wire, leave_reason_from_wire, purpose_from_wire
from fedafd.rpc.sessions import sessions_in

__all__ = ["AgentService"]

_STORE_OUTAGES = (StorageFullError, StorageUnavailableError)
"""A site that meets one lives and tries again: it is not silent."""
_LONGEST_WAIT_SECONDS = 60.0
_SLOW_LOOK_SECONDS = (15.0, 30.0)
"""A long poll that hears nothing looks again after a time between these, should a wake-up have been lost."""
_JITTER = random.SystemRandom()
_MOST_AFFECTED = 2**40


class AgentService(AggregatorServiceServicer):
    """Every method looks the caller up by its credential; none trusts a field for that."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def Enroll(self, request: pb.EnrollRequest, call: Call) -> pb.EnrollResponse:
        return await enrol(self._context, request)

    async def RenewCertificate(self, request: pb.RenewCertificateRequest, call: Call) -> pb.RenewCertificateResponse:
        # The request is signed by the key: it proves as much as a proof does, and an agent that lost the answer to its
        # first one has no certificate yet.
        client = (await caller_of(self._context, call, fresh=True, proven=False)).client
        return await renew_certificate(self._context, client, request)

    async def FetchTask(self, request: pb.FetchTaskRequest, call: Call) -> pb.FetchTaskResponse:
        seconds = request.wait.ToMilliseconds() / 1000
        if not 0 <= seconds <= _LONGEST_WAIT_SECONDS:
            raise InvalidRequestError(f"wait is {seconds} s; must be 0 to {_LONGEST_WAIT_SECONDS:.0f} s")
        loop, wakeups = asyncio.get_running_loop(), self._context.wakeups
        until, tick = loop.time() + seconds, wakeups.tick
        caller = await caller_of(self._context, call, fresh=True, idle=True, wait_seconds=seconds)
        client = caller.client
        with wakeups.of_client(client.federation_id, client.id, since=tick) as news:
            while True:
                self._seen(client, str(ActivityKind.WAITING))
                answer = await desired_task(self._context, caller)
                left = until - loop.time()
                if answer.revision != request.known_revision or left <= 0 or self._context.draining.is_set():
                    return answer
                # Of who has no part in a round `watch_rounds` finds what a lost wake-up would have said.
                look = left if caller.part is None else min(left, _JITTER.uniform(*_SLOW_LOOK_SECONDS))
                woken = not news.replaced and await news.wait(look)
                if news.replaced or (not woken and loop.time() >= until):
                    return answer  # the agent asks anew at once
                caller = await caller_of(self._context, call, fresh=True)

    async def ReportProgress(self, request: pb.ReportProgressRequest, call: Call) -> pb.ReportProgressResponse:
        client = await calling_client(self._context, call)
        if not 0 <= request.fraction <= 1:  # also what is no number
            raise InvalidRequestError("fraction must be a number from 0 to 1")
        activity = activity_from_wire(request.doing, request.step, request.steps)
        try:
            participation, row = await open_participation(self._context, client, request.round_id)
        except RoundClosedError:
            return pb.ReportProgressResponse(keep_going=False)
        if request.alive_only:
            return pb.ReportProgressResponse(keep_going=True)
        report = Report(
            fraction=request.fraction,
            activity=activity,
            work_done=request.work_done,
            session=sessions_in(call.invocation_metadata()).own,
        )
        self._context.progress.step(row.federation_id, participation.id, report)
        self._seen(client, str(activity or ""))
        return pb.ReportProgressResponse(keep_going=True)

    async def BeginUpload(self, request: pb.BeginUploadRequest, call: Call) -> pb.BeginUploadResponse:
        client = await calling_client(self._context, call)
        self._seen(client, f"{ActivityKind.UPLOADING} {purpose_from_wire(request.upload_purpose)}")
        return await begin_upload(self._context, client, request)

    async def UploadChunks(
        self, requests: AsyncIterator[pb.UploadChunksRequest], call: Call
    ) -> pb.UploadChunksResponse:
        client = await calling_client(self._context, call)
        upload, stream = None, None
        async for request in requests:
            if upload is None:
                upload = await announced_upload(self._context, client, request.upload_id)
            index, data = request.index, request.data  # each reading of `data` is a copy
            del request
            # With each chunk, from memory: a stream ends with its round, and with its client's credential.
            client = await calling_client(self._context, call)
            part, row = await open_participation(self._context, client, upload.round_id)
            try:
                if stream is None:
                    blob = ArrivingBlob(self._context.store, row, upload)
                    stream = Stream(blob, index, self._context.store.append_bytes)
                await stream.take(index, data)
            except _STORE_OUTAGES:
                self._context.progress.moved(row.federation_id, part.id)
                raise
            counts = self._context.transfers.goes_farther(upload.id, index)
            self._context.progress.moved(row.federation_id, part.id, up=len(data), counts=counts)
            self._context.metrics.bytes_in.inc(len(data))
            self._seen(client, f"{ActivityKind.UPLOADING} {upload.purpose}")
        if stream is None:
            raise UploadError("the stream brought no chunk")
        return pb.UploadChunksResponse(accepted_chunks=stream.accepted)

    async def CommitUpload(self, request: pb.CommitUploadRequest, call: Call) -> pb.CommitUploadResponse:
        # The call that counts: asked anew, so that a revocation holds for it even where its wake-up was lost.
        client = (await caller_of(self._context, call, fresh=True)).client
        self._seen(client, str(ActivityKind.DELIVERING))
        try:
            return await commit_delivery(self._context, client, request)
        except _STORE_OUTAGES:
            part, row = await open_participation(self._context, client, request.round_id)
            self._context.progress.moved(row.federation_id, part.id)
            raise

    async def DescribeArtifact(self, request: pb.DescribeArtifactRequest, call: Call) -> pb.DescribeArtifactResponse:
        client = await calling_client(self._context, call)
        artifact, part = await self._named_artifact(client, request.sha256)
        self._seen(client, f"{ActivityKind.DOWNLOADING} {artifact.purpose}")
        length, digests = await describe(self._context, artifact, part)
        self._moved_down(client, artifact, part, len(digests))
        return pb.DescribeArtifactResponse(block_bytes=length, digests=digests)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, call: Call
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        client = await calling_client(self._context, call)
        if request.offset_bytes < 0:
            raise InvalidRequestError(f"offset is {request.offset_bytes}; must be 0 or more")
        artifact, part = await self._named_artifact(client, request.sha256)
        downloads = self._context.downloads
        if request.damaged:
            downloads.forget(artifact.key)
            await check_stored(self._context, artifact, part)
        spans = [Span(request.offset_bytes, artifact.size_bytes)]
        if request.ranges:
            wanted = [(one.offset_bytes, one.length_bytes) for one in request.ranges]
            spans = checked_spans(wanted, artifact.size_bytes)
        try:
            async for data in downloads.stream(artifact.key, spans):
                # With each piece, from memory: a stream ends with its client's credential.
                client = await calling_client(self._context, call)
                yield pb.DownloadArtifactResponse(data=data)
                self._seen(client, f"{ActivityKind.DOWNLOADING} {artifact.purpose}")
                self._context.metrics.bytes_out.inc(len(data))
                self._moved_down(client, artifact, part, len(data))
        except ArtifactNotFoundError as error:
            await make_again(self._context, artifact, part, error)
            raise

    def _moved_down(
        self, client: CallingClient, artifact: types_pb2.Artifact, part: WaitingPart, num_bytes: int
    ) -> None:
        counts = self._context.transfers.is_needed(part.id, artifact.sha256, artifact.size_bytes, num_bytes)
        self._context.progress.moved(client.federation_id, part.id, down=num_bytes, counts=counts)

    async def _named_artifact(self, client: CallingClient, sha256: str) -> tuple[types_pb2.Artifact, WaitingPart]:
        located = await find_artifact(self._context, client, sha256)
        if located is None:
            raise ForbiddenError(f"the current task of client {client.name} does not name that artifact")
        return located

    async def LeaveRound(self, request: pb.LeaveRoundRequest, call: Call) -> pb.LeaveRoundResponse:
        client = await calling_client(self._context, call)
        participation, row = await open_participation(self._context, client, request.round_id)
        code = leave_reason_from_wire(request.leave_reason)
        count = request.num_affected if 0 < request.num_affected <= _MOST_AFFECTED else 0
        reason = f"{LEFT}{leave_words(code, count)}"
        values = {"reason": reason, "reason_code": code.value}
        async with self._context.database.transaction() as session:
            if await settle_participation(session, participation.id, ParticipationState.DROPPED, **values):
                record_event(
                    session,
                    "participation.dropped",
                    federation_id=row.federation_id,
                    actor=f"client:{client.name}",
                    round=row.number,
                    client=client.name,
                    reason=reason,
                    code=code.value,
                    num_affected=count,
                )
        self._context.wakeups.changed(row.federation_id, clients=(client.id,))
        return pb.LeaveRoundResponse()

    async def EndSession(self, request: pb.EndSessionRequest, call: Call) -> pb.EndSessionResponse:
        client = await calling_client(self._context, call)
        async with self._context.database.transaction() as session:
            await end_session(session, client.id, sessions_in(call.invocation_metadata()).own)
        self._context.wakeups.changed(client.federation_id, clients=(client.id,), rounds=False)
        return pb.EndSessionResponse()

    def _seen(self, client: CallingClient, activity: str) -> None:
        if self._context.seen is not None:
            self._context.seen(client.federation_id, client.name, activity)
