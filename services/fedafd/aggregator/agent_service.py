"""AggregatorService: what agents call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fedafd.aggregator.context import Context
from fedafd.aggregator.delivery import commit_delivery
from fedafd.aggregator.identity import calling_client
from fedafd.aggregator.tasks import desired_task, find_artifact
from fedafd.aggregator.types import Call
from fedafd.aggregator.uploads import begin_upload, check_id, open_participation, receive_chunk
from fedafd.domain.errors import ForbiddenError, InvalidRequestError, RoundClosedError, UploadError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.leaving import ActivityKind, leave_words
from fedafd.domain.states import ParticipationState
from fedafd.persistence.artifact_repository import get_upload
from fedafd.persistence.client_repository import enrol_client, note_seen
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import ClientRow, utc_now
from fedafd.persistence.participation_repository import (
    add_bytes,
    current_participation,
    note_progress,
    settle_participation,
)
from fedafd.persistence.session_repository import end_session
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceServicer
from fedafd.rpc.codes import activity_from_wire, leave_reason_from_wire, purpose_from_wire
from fedafd.rpc.sessions import sessions_in

__all__ = ["AgentService"]

_KINDS = {
    types_pb2.CLIENT_KIND_IMAGE: ClientKind.IMAGE,
    types_pb2.CLIENT_KIND_TEXT: ClientKind.TEXT,
    types_pb2.CLIENT_KIND_PAIR: ClientKind.PAIR,
}
_NONCE_BYTES = (16, 64)
_LONGEST_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 2.0
_COUNT_EVERY = 16
_MOST_AFFECTED = 2**40


class AgentService(AggregatorServiceServicer):
    """Every method looks the caller up by its credential; none trusts a field for that."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def Enroll(self, request: pb.EnrollRequest, call: Call) -> pb.EnrollResponse:
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise InvalidRequestError("kind must be image, text or pair")
        async with self._context.database.transaction() as session:
            client, credential, new = await enrol_client(
                session, request.token, kind, _version(request), _nonce(request)
            )
            if new:
                record_event(
                    session,
                    "client.enrolled",
                    federation_id=client.federation_id,
                    actor=f"client:{client.name}",
                    kind_of_client=client.kind,
                    agent_version=client.agent_version,
                )
        self._context.wakeups.changed(client.federation_id)
        return pb.EnrollResponse(
            federation_id=client.federation_id,
            client_id=client.id,
            client_name=client.name,
            credential=credential,
        )

    async def FetchTask(self, request: pb.FetchTaskRequest, call: Call) -> pb.FetchTaskResponse:
        seconds = request.wait.ToMilliseconds() / 1000
        if not 0 <= seconds <= _LONGEST_WAIT_SECONDS:
            raise InvalidRequestError(f"wait is {seconds} s; must be 0 to {_LONGEST_WAIT_SECONDS:.0f} s")
        client = await calling_client(self._context, call, wait_seconds=seconds)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            self._seen(client, str(ActivityKind.WAITING))
            async with self._context.database.snapshot() as session:
                answer = await desired_task(self._context, session, client)
            left = until - loop.time()
            if answer.revision != request.known_revision or left <= 0 or self._context.draining.is_set():
                return answer
            await self._context.wakeups.wait(min(left, _LOOK_SECONDS))
            client = await calling_client(self._context, call)

    async def ReportProgress(self, request: pb.ReportProgressRequest, call: Call) -> pb.ReportProgressResponse:
        client = await calling_client(self._context, call)
        if not 0 <= request.fraction <= 1:  # also what is no number
            raise InvalidRequestError("fraction must be a number from 0 to 1")
        activity = str(activity_from_wire(request.doing, request.step, request.steps) or "")
        try:
            participation, row = await open_participation(self._context, client, request.round_id)
        except RoundClosedError:
            return pb.ReportProgressResponse(keep_going=False)
        if request.alive_only:
            return pb.ReportProgressResponse(keep_going=True)
        async with self._context.database.transaction() as session:
            await note_progress(session, participation.id, request.fraction, activity)
            await note_seen(session, client.id, utc_now())
        self._seen(client, activity)
        self._context.wakeups.changed(row.federation_id)
        return pb.ReportProgressResponse(keep_going=True)

    async def BeginUpload(self, request: pb.BeginUploadRequest, call: Call) -> pb.BeginUploadResponse:
        client = await calling_client(self._context, call)
        self._seen(client, f"{ActivityKind.UPLOADING} {purpose_from_wire(request.upload_purpose)}")
        return await begin_upload(self._context, client, request)

    async def UploadChunks(
        self, requests: AsyncIterator[pb.UploadChunksRequest], call: Call
    ) -> pb.UploadChunksResponse:
        client = await calling_client(self._context, call)
        accepted, upload, row = 0, None, None
        async for request in requests:
            if upload is None or row is None:
                check_id(request.upload_id, "upload_id")
                async with self._context.database.snapshot() as session:
                    upload = await get_upload(session, request.upload_id, client.id)
                _, row = await open_participation(self._context, client, upload.round_id)
            await receive_chunk(self._context, row, upload, request.index, request.data)
            self._context.metrics.bytes_in.inc(len(request.data))
            self._seen(client, f"{ActivityKind.UPLOADING} {upload.purpose}")
            accepted += 1
        if upload is None:
            raise UploadError("the stream brought no chunk")
        return pb.UploadChunksResponse(accepted_chunks=accepted)

    async def CommitUpload(self, request: pb.CommitUploadRequest, call: Call) -> pb.CommitUploadResponse:
        client = await calling_client(self._context, call)
        self._seen(client, str(ActivityKind.DELIVERING))
        return await commit_delivery(self._context, client, request)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, call: Call
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        client = await calling_client(self._context, call)
        if request.offset_bytes < 0:
            raise InvalidRequestError(f"offset is {request.offset_bytes}; must be 0 or more")
        async with self._context.database.snapshot() as session:
            artifact = await find_artifact(self._context, session, client, request.sha256)
        if artifact is None:
            raise ForbiddenError(f"the current task of client {client.name} does not name that artifact")
        current = await self._current_round(client.id)
        pieces = self._context.store.stream(artifact.key, request.offset_bytes)
        uncounted = 0
        while data := await asyncio.to_thread(next, pieces, b""):
            yield pb.DownloadArtifactResponse(data=data)
            uncounted += len(data)
            self._seen(client, f"{ActivityKind.DOWNLOADING} {artifact.purpose}")
            if uncounted >= _COUNT_EVERY << 20:
                await self._count_down(current, client.id, uncounted)
                uncounted = 0
        await self._count_down(current, client.id, uncounted)

    async def LeaveRound(self, request: pb.LeaveRoundRequest, call: Call) -> pb.LeaveRoundResponse:
        client = await calling_client(self._context, call)
        participation, row = await open_participation(self._context, client, request.round_id)
        code = leave_reason_from_wire(request.leave_reason)
        count = request.num_affected if 0 < request.num_affected <= _MOST_AFFECTED else 0
        reason = f"left: {leave_words(code, count)}"
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
        self._context.wakeups.changed(row.federation_id)
        return pb.LeaveRoundResponse()

    async def EndSession(self, request: pb.EndSessionRequest, call: Call) -> pb.EndSessionResponse:
        client = await calling_client(self._context, call)
        async with self._context.database.transaction() as session:
            await end_session(session, client.id, sessions_in(call.invocation_metadata()).own)
        return pb.EndSessionResponse()

    def _seen(self, client: ClientRow, activity: str) -> None:
        if self._context.seen is not None:
            self._context.seen(client.federation_id, client.name, activity)

    async def _current_round(self, client_id: str) -> str:
        async with self._context.database.snapshot() as session:
            current = await current_participation(session, client_id)
        return "" if current is None else current[1].id

    async def _count_down(self, round_id: str, client_id: str, count: int) -> None:
        if count and round_id:
            self._context.metrics.bytes_out.inc(count)
            async with self._context.database.transaction() as session:
                await add_bytes(session, round_id, client_id, down=count)


def _nonce(request: pb.EnrollRequest) -> bytes:
    if request.nonce and not _NONCE_BYTES[0] <= len(request.nonce) <= _NONCE_BYTES[1]:
        raise InvalidRequestError(f"nonce: must be {_NONCE_BYTES[0]} to {_NONCE_BYTES[1]} random bytes, or unset")
    return bytes(request.nonce)


def _version(request: pb.EnrollRequest) -> str | None:
    software = request.software
    return f"{software.major}.{software.minor}.{software.patch}" if request.HasField("software") else None
