"""The agent's calls to the aggregator: each may be repeated, and is (`fedafd.agent.patient_calls`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from fedafd.agent.cache import ArtifactCache, PartialDownload
from fedafd.agent.call_count import CallCount
from fedafd.agent.chunks import ChunkedFile
from fedafd.agent.direct_upload import DirectUpload
from fedafd.agent.outgoing import Departure, activity_to_send, fraction_to_send
from fedafd.agent.patch import CHANGE_IN_PART, Patch, patch_of
from fedafd.agent.patient_calls import PatientCalls, is_broken_line
from fedafd.agent.session import AgentSession
from fedafd.agent.signing import Signing
from fedafd.agent.sound_task import need_credential, need_names
from fedafd.agent.state import Credential
from fedafd.artifacts.blocks import checked_length
from fedafd.domain.config import DirectUploadConfig, TlsConfig
from fedafd.domain.errors import (
    ArtifactCorruptError,
    ConfigurationError,
    FedafdError,
    StorageUnavailableError,
)
from fedafd.domain.kinds import ClientKind, ParticipantKind, UploadPurpose
from fedafd.domain.leaving import Activity
from fedafd.domain.pacing import Pace
from fedafd.domain.retrying import FullJitter
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.rpc.channel import open_channel
from fedafd.rpc.client_key import ClientKey, certificate_text
from fedafd.rpc.codes import wire_activity, wire_client_kind, wire_leave_reason
from fedafd.rpc.status import DIAL_ANEW_SECONDS, is_in_vain
from fedafd.rpc.tls import file_stamp
from fedafd.telemetry.logging import get_logger

__all__ = ["AggregatorConnection"]

_CALL_SECONDS = 60.0
_SILENCE_SECONDS = 120.0
_GOODBYE_SECONDS = 2.0
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_CORRUPT_TRIES = 3
_TASKS_A_SECOND, _TASKS_AT_ONCE = 1.0, 60
"""Asked for at most. A federation answers when something changed, some three times a round, or after the wait."""
_log = get_logger(__name__)
T = TypeVar("T")


def _ignore(_: int) -> None:
    pass


class AggregatorConnection:
    """One aggregator, as seen by one agent. Methods raise StopRequestedError once `stop` is set, or a FedafdError."""

    def __init__(
        self,
        address: str,
        *,
        stop: asyncio.Event,
        tls: TlsConfig | None = None,
        credential: Credential | None = None,
        session: AgentSession | None = None,
        on_sent: Callable[[int], None] = _ignore,
        on_received: Callable[[int], None] = _ignore,
        direct: DirectUploadConfig | None = None,
    ) -> None:
        """`on_sent` and `on_received` hear the length in bytes of every chunk of a blob. `direct`: where uploads may go
        past the aggregator.

        Raises ConfigurationError for TLS files that cannot be used.
        """
        self._address = address
        self._tls = tls
        self._on_sent = on_sent
        self._on_received = on_received
        self._session = session
        self._direct = DirectUpload(direct, on_sent) if direct else None
        pauses = FullJitter(_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)
        self.call_count = CallCount()
        self._calls = PatientCalls(address, stop, pauses, self._before_next)
        self._tasks, self._slowed = Pace(_TASKS_A_SECOND, _TASKS_AT_ONCE), False
        self.use(credential)
        self._open()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(None)

    def use(self, credential: Credential | None) -> None:
        """Call with this credential from here on. Raises ConfigurationError for a key that cannot be used."""
        self._signing = Signing(credential, self._session)

    async def enrol(
        self, token: str, kind: ClientKind | ParticipantKind, nonce: bytes = b"", key: ClientKey | None = None
    ) -> Credential:
        """Trade the one-time token for a credential, bound to `key`; with the same `nonce` again for the same one.

        Raises InvalidRequestError for names that are none, as folders of trackers have them, and for a credential that
        no call can carry.
        """
        request = pb.EnrollRequest(
            token=token,
            kind=wire_client_kind(ParticipantKind(kind)),
            software=_software(),
            nonce=nonce,
            certificate_request=b"" if key is None else key.request(),
        )
        answer = await self._calls.repeat("enrol", lambda: self._stub.Enroll(request, timeout=_CALL_SECONDS))
        need_names(federation=answer.federation_id, client=answer.client_name)
        need_credential(answer.credential)
        return Credential(
            federation_id=answer.federation_id,
            client_id=answer.client_id,
            client_name=answer.client_name,
            kind=ParticipantKind(kind),
            secret=answer.credential,
            key=key.pem() if key is not None and answer.certificate else "",
            certificate=certificate_text(answer.certificate),
        )

    async def renew_certificate(self, certificate_request: bytes) -> bytes:
        """A new certificate in DER."""
        request = pb.RenewCertificateRequest(certificate_request=certificate_request)
        answer: pb.RenewCertificateResponse = await self._ask("renew certificate", "RenewCertificate", request)
        return answer.certificate

    async def fetch_task(self, known_revision: int, wait_seconds: float) -> pb.FetchTaskResponse:
        """The desired state; held by the server for up to `wait_seconds` while it is the known one.

        A server that answers at once, time and again, is asked once a second in the end.
        """
        await self._slow_down()
        wait = Duration()
        wait.FromMilliseconds(int(wait_seconds * 1000))
        request = pb.FetchTaskRequest(wait=wait, known_revision=known_revision)
        answer: pb.FetchTaskResponse = await self._ask("fetch task", "FetchTask", request, wait_seconds + _CALL_SECONDS)
        if self._session is not None:
            self._session.accepted()
        return answer

    async def _slow_down(self) -> None:
        early_seconds = self._tasks.wait_seconds(self._address, monotonic())
        if early_seconds > 0:
            if not self._slowed:
                _log.warning("agent.answers_too_often", aggregator=self._address, asks_a_second=_TASKS_A_SECOND)
            await self._calls.guarded(asyncio.sleep(early_seconds))
        self._slowed = early_seconds > 0

    async def report_progress(self, round_id: str, fraction: float, activity: Activity, *, work_done: int) -> bool:
        """Tell how far training is; False means: stop and discard. `work_done`: what this process has done so far."""
        sent = activity_to_send(activity)
        request = pb.ReportProgressRequest(
            round_id=round_id,
            fraction=fraction_to_send(fraction),
            doing=wire_activity(sent.kind),
            step=sent.step,
            steps=sent.steps,
            work_done=work_done,
        )
        answer = await self._ask("report progress", "ReportProgress", request)
        return bool(answer.keep_going)

    async def keep_session(self, round_id: str) -> None:
        """Tell that this process lives, while it is busy with a round."""
        request = pb.ReportProgressRequest(round_id=round_id, alive_only=True)
        await self._ask("keep the session", "ReportProgress", request)

    async def end_session(self) -> None:
        """Say that this process ends; tried once, since the session runs out by itself."""
        with suppress(grpc.aio.AioRpcError):
            await self._once("EndSession", pb.EndSessionRequest(), _GOODBYE_SECONDS)

    async def download(
        self,
        artifact: types_pb2.Artifact,
        cache: ArtifactCache,
        patch: Patch | None = None,
        *,
        before_next_try: Callable[[int], None] = _ignore,
    ) -> Path:
        """The file with the artifact's content: from the cache, else downloaded from where it broke off.

        What `patch` says is taken from its older file. `before_next_try` hears how many bytes would come once more
        because damaged ones came; what it raises ends the download.
        """
        path = await asyncio.to_thread(cache.find, artifact.sha256)
        if path is None:
            path = await self._downloaded(artifact, cache, patch, before_next_try)
        if artifact.purpose.startswith(CHANGE_IN_PART):
            cache.remember(artifact.purpose, artifact.sha256)
        return path

    async def patch(self, artifact: types_pb2.Artifact, base: Path) -> Patch | None:
        """How the artifact is made of a file of its layout; None, and a line in the log, where nobody can tell."""
        request = pb.DescribeArtifactRequest(sha256=artifact.sha256)
        call = partial(self._once, "DescribeArtifact", request)
        try:
            description = await self._calls.repeat("describe artifact", call)
            length = checked_length(description.block_bytes)
            self._on_received(len(description.digests))
            return await asyncio.to_thread(
                patch_of, base, description.digests, size_bytes=artifact.size_bytes, length=length
            )
        except (FedafdError, OSError) as error:  # an aggregator from before there was this call, for one
            _log.info("agent.download_whole", purpose=artifact.purpose, reason=str(error))
            return None

    async def first_bytes(self, artifact: types_pb2.Artifact, count: int) -> bytes:
        """The first `count` bytes of an artifact, of which nothing is kept."""
        request = pb.DownloadArtifactRequest(sha256=artifact.sha256, ranges=[pb.ByteRange(length_bytes=count)])

        async def read() -> bytes:
            begin = b""
            async with aclosing(self._stream(request)) as pieces:
                async for data in pieces:  # all of it from an older aggregator, which knows no ranges
                    begin += data
                    if len(begin) >= count:
                        return begin[:count]
            raise StorageUnavailableError(f"the download of artifact {artifact.sha256} ended early")

        return await self._calls.repeat("download", read)

    async def _downloaded(
        self,
        artifact: types_pb2.Artifact,
        cache: ArtifactCache,
        patch: Patch | None,
        before_next_try: Callable[[int], None],
    ) -> Path:
        damaged = False
        for tries_left in reversed(range(_CORRUPT_TRIES)):
            part = cache.begin(artifact.sha256, artifact.size_bytes)
            try:
                await self._calls.repeat("download", partial(self._receive, artifact.sha256, part, damaged, patch))
                return await asyncio.to_thread(part.finish)
            except ArtifactCorruptError:
                if not tries_left:
                    raise
                # Of a patch the older file or a digest may be to blame: the next try asks for everything.
                damaged, patch = patch is None, None
                _log.warning("agent.download_corrupt", sha256=artifact.sha256, purpose=artifact.purpose)
                before_next_try(artifact.size_bytes)
        raise AssertionError("the last try returns or raises")

    async def upload(self, round_id: str, purpose: UploadPurpose, blob: ChunkedFile) -> str:
        """Send what the server does not hold of the blob; returns the upload's id."""
        request = blob.announcement(round_id, purpose)
        request.direct = self._direct is not None
        before = len(blob.chunk_sha256) + 1

        async def whole() -> str:
            nonlocal before
            while True:
                begun = await self._ask("begin upload", "BeginUpload", request)
                missing = tuple(begun.missing_chunks)
                if not missing:
                    return str(begun.upload_id)
                if self._direct is not None and begun.forms:
                    # What arrived counts, whichever way it came; without a step onwards the rest goes the usual way.
                    goes_on, before = len(missing) < before, len(missing)
                    request.direct = goes_on and await self._direct.send(begun.forms, blob)
                elif await self._send(begun.upload_id, missing, blob) == len(missing):
                    return str(begun.upload_id)

        # A repeat asks anew what is missing: what arrived counts. Where nobody answers, asking itself waits longer.
        return await self._calls.repeat("upload", whole, pauses=FullJitter(_FIRST_WAIT_SECONDS, _FIRST_WAIT_SECONDS))

    async def commit(
        self,
        round_id: str,
        upload_ids: Sequence[str],
        metrics: Mapping[str, float],
        num_private_samples: int,
        *,
        model_bytes: int = 0,
    ) -> pb.CommitUploadResponse:
        """Deliver; repeating it gives the same receipt. `model_bytes`: of the personalized model when it is whole."""
        request = pb.CommitUploadRequest(
            round_id=round_id,
            upload_ids=upload_ids,
            metrics=metrics,
            num_private_samples=num_private_samples,
            model_bytes=model_bytes,
        )
        answer: pb.CommitUploadResponse = await self._ask("commit upload", "CommitUpload", request, 10 * _CALL_SECONDS)
        return answer

    async def leave(self, round_id: str, departure: Departure) -> None:
        """Give up the participation."""
        request = pb.LeaveRoundRequest(
            round_id=round_id,
            leave_reason=wire_leave_reason(departure.reason),
            num_affected=departure.num_affected,
        )
        await self._ask("leave round", "LeaveRound", request)

    def _open(self) -> None:
        files, self._opened_at = file_stamp(self._tls), monotonic()
        self._channel = open_channel(self._address, self._tls)
        self._files = files
        self._stub = AggregatorServiceStub(self._channel)

    async def _follow_files(self) -> None:
        # A channel keeps the certificate that it was opened with; a renewed one needs another channel.
        if file_stamp(self._tls) != self._files:
            await self._open_anew()

    async def _open_anew(self) -> None:
        old = self._channel
        try:
            self._open()
        except ConfigurationError as error:  # half of the files are written
            _log.warning("agent.tls_files_not_taken", reason=str(error))
        else:
            _log.info("agent.connection_renewed", aggregator=self._address)
            await old.close(None)

    async def _receive(self, sha256: str, part: PartialDownload, damaged: bool, patch: Patch | None) -> None:
        if patch is not None:
            await asyncio.to_thread(patch.copy, part)
        if part.complete:
            return
        request = pb.DownloadArtifactRequest(sha256=sha256, offset_bytes=part.offset_bytes, damaged=damaged)
        if patch is not None:
            spans = patch.missing(part)
            request.ranges.extend(pb.ByteRange(offset_bytes=s.start, length_bytes=s.end - s.start) for s in spans)
        async with aclosing(self._stream(request)) as pieces:
            async for data in pieces:
                if patch is None:
                    part.append(data)
                else:
                    await asyncio.to_thread(patch.append, part, data)
        if not part.complete:
            raise StorageUnavailableError(f"the download of artifact {sha256} ended early")

    async def _stream(self, request: pb.DownloadArtifactRequest) -> AsyncGenerator[bytes, None]:
        """The pieces of an artifact. Raises StorageUnavailableError where none comes for a while."""
        self.call_count.add("DownloadArtifact", request)
        call = self._stub.DownloadArtifact(request, metadata=self._signing.metadata("DownloadArtifact"))
        try:
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await call.read()
                if not isinstance(message, pb.DownloadArtifactResponse):  # the end of the stream
                    return
                self._on_received(len(message.data))
                yield message.data
        except TimeoutError:
            raise StorageUnavailableError(f"artifact {request.sha256}: no byte for {_SILENCE_SECONDS:.0f} s") from None
        finally:
            call.cancel()

    async def _send(self, upload_id: str, missing: Sequence[int], blob: ChunkedFile) -> int:
        """Send those chunks; how many of them count."""
        chunks = blob.messages(upload_id, missing, self._on_sent)
        answer = await self._stub.UploadChunks(chunks, metadata=self._signing.metadata("UploadChunks"))
        return int(answer.accepted_chunks)

    async def _ask(self, what: str, method: str, request: Message, seconds: float = _CALL_SECONDS) -> Any:
        return await self._calls.repeat(what, lambda: self._once(method, request, seconds))

    def _once(self, method: str, request: Message, seconds: float = _CALL_SECONDS) -> Awaitable[Any]:
        self.call_count.add(method, request)
        call: Awaitable[Any] = getattr(self._stub, method)(
            request, metadata=self._signing.metadata(method), timeout=seconds
        )
        return call

    async def _before_next(self, error: grpc.aio.AioRpcError | FedafdError) -> None:
        """Open another channel where this one leads to who cannot serve, or its certificate's files are others."""
        in_vain = isinstance(error, grpc.aio.AioRpcError) and is_in_vain(error)
        if in_vain and monotonic() - self._opened_at > DIAL_ANEW_SECONDS:
            await self._open_anew()
        elif is_broken_line(error):
            await self._follow_files()


def _software() -> pb.SoftwareVersion:
    numbers = [int(part) for part in re.findall(r"\d+", version("fedafd"))]
    major, minor, patch, *_ = [*numbers, 0, 0, 0]
    return pb.SoftwareVersion(major=major, minor=minor, patch=patch)
