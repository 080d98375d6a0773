"""A region's life: enrol once above, follow each upper round with one of its own, deliver the merged states.

All that counts lies in the own federation's rows and store, and above: the process may die at any point, and the next
start finds the round where it is. A round that the upper federation no longer asks for is settled first: by its receipt
if it was delivered, else it is cancelled.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.chunks import ChunkedFile
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.enrolled import need_token
from fedafd.agent.enrolment import enrol
from fedafd.agent.files import write_atomically
from fedafd.agent.leaving import note_departure
from fedafd.agent.ledger import Ledger
from fedafd.agent.outgoing import Departure, departure_of
from fedafd.agent.patching import patch_of_last
from fedafd.agent.patient_calls import StopRequestedError
from fedafd.agent.renewal import Renewal
from fedafd.agent.session import AgentSession
from fedafd.agent.sound_task import decoded_configuration
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.addresses import split_address
from fedafd.domain.config import SharingConfig, parse_federation_config
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import (
    ConfigurationError,
    FedafdError,
    ForbiddenError,
    IdentityInUseError,
    NotFoundError,
    RoundClosedError,
    StorageFullError,
    UnauthenticatedError,
)
from fedafd.domain.kinds import ParticipantKind, UploadPurpose
from fedafd.domain.leaving import Activity, ActivityKind, LeaveReason
from fedafd.domain.plain_text import plain_text
from fedafd.domain.states import RoundState
from fedafd.persistence.models import RoundRow
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.region.metrics import RegionMetrics
from fedafd.region.own_federation import OwnFederation, Standing
from fedafd.region.whole_task import need_whole
from fedafd.telemetry.logging import bind_context, get_logger
from fedafd.telemetry.metrics import start_metrics_server

__all__ = ["Region"]

_AFTER_ERROR_SECONDS = 5.0
_SIGN_OF_LIFE_LOOKS = 10
_FATAL = (UnauthenticatedError, ForbiddenError, IdentityInUseError)
_LONGEST_RECEIPT, _LONGEST_REASON = 64, 2000
"""Characters of the upper federation's words that are kept: the region's operators read them."""
_WITHOUT_IT = "the upper federation's round went on without it"
_log = get_logger(__name__)


class Region:
    """One region. `run` returns after `stop` was set; it raises what ends the region for good."""

    def __init__(
        self,
        config: RegionConfig,
        own: OwnFederation,
        state: StateDirectory,
        *,
        stop: asyncio.Event,
        cache_limit_bytes: int,
        poll_seconds: float = 30.0,
        look_seconds: float = 1.0,
        metrics_listen: str | None = None,
    ) -> None:
        """`look_seconds`: how often it looks how far its own round is. `metrics_listen`: host:port of /metrics."""
        self._metrics, self._metrics_listen = RegionMetrics(), metrics_listen
        self._moves = 1
        """How often it told that its round went on, from 1."""
        self._config, self._own, self._state, self._stop = config, own, state, stop
        self._poll_seconds, self._look_seconds = poll_seconds, look_seconds
        self._cache = ArtifactCache(state.root / "artifacts", limit_bytes=cache_limit_bytes)
        self._ledger = Ledger(state.root)

    async def run(self, token: str | None) -> None:
        """Enrol if need be, then serve.

        Raises UnauthenticatedError, IdentityInUseError, ConfigurationError.
        """
        session = AgentSession(self._state.root)
        with suppress(StopRequestedError):
            credential = self._state.load_credential() or await self._enrol(token)
            if credential.kind is not ParticipantKind.REGION:
                raise ConfigurationError(
                    f"state_dir {self._state.root}: holds the credential of {credential.kind.value} client"
                    f" {credential.client_name!r}; choose another folder for the region"
                )
            await self._own.follow(credential.federation_id)
            connection = AggregatorConnection(
                self._config.aggregator,
                tls=self._config.tls,
                stop=self._stop,
                credential=credential,
                session=session,
            )
            try:
                with ExitStack() as stack:
                    if self._metrics_listen:
                        stack.enter_context(start_metrics_server(self._metrics, *split_address(self._metrics_listen)))
                    stack.enter_context(
                        bind_context(federation=credential.federation_id, client=credential.client_name)
                    )
                    await self._serve(connection, Renewal(self._state, credential))
            finally:
                await connection.end_session()
                await connection.close()

    async def _enrol(self, token: str | None) -> Credential:
        token, kind = need_token(token, "region"), ParticipantKind.REGION
        credential = await enrol(self._config, token, kind, state=self._state, ledger=self._ledger, stop=self._stop)
        _log.info("region.enrolled", federation=credential.federation_id, region=credential.client_name)
        return credential

    async def _serve(self, connection: AggregatorConnection, renewal: Renewal) -> None:
        revision = 0
        while not self._stop.is_set():
            await renewal.if_due(connection)
            try:
                answer = await connection.fetch_task(revision, self._poll_seconds)
                if answer.revision == revision:
                    continue
                asked = answer.train.round_id if answer.HasField("train") else ""
                await self._settle_others(connection, asked)
                if asked:
                    self._metrics.last_round.set(answer.train.round_number)
                    with (
                        bind_context(round_number=answer.train.round_number),
                        self._metrics.following.track_inprogress(),
                    ):
                        await self._take_part(connection, answer.train)
                revision = answer.revision
            except (*_FATAL, ConfigurationError):
                raise
            except FedafdError as error:
                _log.error("region.looked_in_vain", reason=str(error), code=error.code)
                revision = 0
                await self._rest(_AFTER_ERROR_SECONDS)

    async def _settle_others(self, connection: AggregatorConnection, asked: str) -> None:
        """End own rounds that are part of another upper round than the one that is asked for."""
        for row in await self._own.unfinished():
            upstream = row.upstream_round_id or ""
            if upstream == asked or row.upstream_receipt is not None:
                continue
            try:
                # A delivery whose answer was lost: its receipt comes again, whatever is named.
                receipt = await connection.commit(upstream, [], {}, 0)
            except (RoundClosedError, NotFoundError) as error:
                await self._own.end(row.id, RoundState.CANCELLED, _WITHOUT_IT)
                self._metrics.round_done("closed")
                _log.warning("region.round_closed", round=row.number, reason=str(error))
                continue
            await self._settled(row, receipt)

    async def _take_part(self, connection: AggregatorConnection, task: pb.TrainTask) -> None:
        try:
            need_whole(task)
            files = await self._fetched(connection, task)
            row = await self._own.find(task.round_id) or await self._begun(task, files)
            await self._follow(connection, task, row, files)
        except RoundClosedError as error:
            self._metrics.round_done("closed")
            _log.warning("region.round_closed", round=task.round_number, reason=str(error))
            begun = await self._own.find(task.round_id)
            if begun is not None:
                await self._own.end(begun.id, RoundState.CANCELLED, _WITHOUT_IT)
        except (StopRequestedError, *_FATAL):
            raise
        except Exception as error:
            # A full disk may pass, too, but nobody knows when: the upper round goes on without the region.
            if isinstance(error, FedafdError) and error.retryable and not isinstance(error, StorageFullError):
                raise
            # One bad round must not end the region, whatever is wrong with it.
            expected = isinstance(error, FedafdError | OSError)
            code = getattr(error, "code", type(error).__name__)
            _log.error("region.round_failed", reason=str(error), code=code, exc_info=not expected)
            await self._leave(connection, task, departure_of(error, SharingConfig()))

    async def _begun(self, task: pb.TrainTask, files: dict[str, Path]) -> RoundRow:
        config = parse_federation_config(
            decoded_configuration(task.federation_config_json), "the upper federation's configuration"
        )
        row = await self._own.begin(task, config, files, deadline_share=self._config.deadline_share)
        _log.info("region.round_begun", federation=self._own.name)
        return row

    async def _fetched(self, connection: AggregatorConnection, task: pb.TrainTask) -> dict[str, Path]:
        """What the task names, by hash."""
        artifacts = [*task.public_set, task.global_representations, *task.encoder_bundles]
        wanted = {artifact.sha256 for artifact in artifacts}
        self._cache.trim(wanted | self._cache.newest_hashes({artifact.purpose for artifact in artifacts}))
        self._cache.need_room({artifact.sha256: artifact.size_bytes for artifact in artifacts})
        files = {}
        for number, artifact in enumerate(artifacts, start=1):
            doing = Activity(ActivityKind.DOWNLOADING, number, len(artifacts))
            await self._tell(connection, task, 0.05 * number / len(artifacts), doing)
            patch = await patch_of_last(connection, artifact, self._cache)
            files[artifact.sha256] = await connection.download(artifact, self._cache, patch)
        return files

    async def _follow(
        self, connection: AggregatorConnection, task: pb.TrainTask, row: RoundRow, files: dict[str, Path]
    ) -> None:
        """Watch the own round until its states are merged, then deliver them. Raises RoundClosedError."""
        last: tuple[object, ...] = ()
        looks = 0
        while not self._stop.is_set():
            now = await self._own.standing(row.id)
            if now.row.upstream_receipt is not None:
                _log.warning("region.asked_again", round=task.round_number)
                await self._deliver(connection, task, now.row)
                return
            if now.state in (RoundState.FAILED, RoundState.CANCELLED):
                _log.error("region.round_failed", reason=now.row.reason)
                await self._leave(connection, task, Departure(LeaveReason.REGION_ROUND_FAILED))
                return
            if now.state is RoundState.DISTILLING:
                await self._deliver(connection, task, now.row)
                return
            # The upper federation's idle timeout is for a round that stands still: what moves is told, nothing else.
            if now.mark != last:
                await self._tell(connection, task, 0.05 + 0.9 * now.fraction, _doing(now))
            elif looks % _SIGN_OF_LIFE_LOOKS == 0:
                await connection.keep_session(task.round_id)
            last, looks = now.mark, looks + 1
            await self._own.mend(task, files)
            await self._rest(self._look_seconds)
        raise StopRequestedError

    async def _tell(
        self, connection: AggregatorConnection, task: pb.TrainTask, fraction: float, doing: Activity
    ) -> None:
        self._moves += 1
        if not await connection.report_progress(task.round_id, fraction, doing, work_done=self._moves):
            raise RoundClosedError("the upper round closed for this region")

    async def _deliver(self, connection: AggregatorConnection, task: pb.TrainTask, row: RoundRow) -> None:
        blob = await asyncio.to_thread(ChunkedFile.of, await self._kept(row))
        self._ledger.record(
            UploadPurpose.MERGED_STATES.value,
            sha256=blob.sha256,
            size_bytes=blob.size_bytes,
            round_number=task.round_number,
        )
        upload = await connection.upload(task.round_id, UploadPurpose.MERGED_STATES, blob)
        await self._settled(row, await connection.commit(task.round_id, [upload], {}, 0))

    async def _kept(self, row: RoundRow) -> Path:
        """The merged states as a file, which stays until the next round's: the upper store may lose what it got."""
        file = self._state.root / f"merged-states-{row.id}.blob"
        if not file.exists():
            for older in self._state.root.glob("merged-states-*.blob"):
                older.unlink()
            content = await self._own.merged(row)
            await asyncio.to_thread(write_atomically, file, content)
        return file

    async def _settled(self, row: RoundRow, receipt: pb.CommitUploadResponse) -> None:
        self._metrics.round_done("delivered" if receipt.accepted else "rejected")
        if receipt.accepted:
            kept_receipt = plain_text(receipt.receipt[:_LONGEST_RECEIPT])
            await self._own.delivered(row, kept_receipt)
            _log.info("region.delivered", round=row.number, receipt=kept_receipt)
            return
        why = plain_text(receipt.rejection_reason[:_LONGEST_REASON])
        await self._own.end(row.id, RoundState.FAILED, f"the upper federation rejected the merged states: {why}")
        _log.error("region.rejected", round=row.number, reason=why)

    async def _leave(self, connection: AggregatorConnection, task: pb.TrainTask, departure: Departure) -> None:
        """Leave the upper round; what cannot be noted, as on a full disk, is not said."""
        self._metrics.round_done("failed")
        try:
            note_departure(self._ledger, departure, task.round_number)
            with suppress(RoundClosedError):
                await connection.leave(task.round_id, departure)
        except (StorageFullError, OSError) as refused:
            _log.warning("region.leave_refused", reason=str(refused))

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


def _doing(now: Standing) -> Activity:
    return Activity(ActivityKind.COLLECTING, now.delivered, now.invited)
