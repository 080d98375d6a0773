"""The agent's life: enrol once, then ask for the desired state and make it true, until stopped.

Everything is derived from the answer to FetchTask and from the state directory, so the process may die at any point:
the next start gets the same task again, finds what is already downloaded, trained or uploaded, and goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.comparing import Comparing
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.delivery import Delivery
from fedafd.agent.enrolled import need_kind, need_token
from fedafd.agent.enrolment import enrol
from fedafd.agent.fetching import fetch
from fedafd.agent.leaving import leave_round
from fedafd.agent.ledger import Ledger
from fedafd.agent.metrics import AgentMetrics
from fedafd.agent.patch import CHANGE_IN_PART
from fedafd.agent.patient_calls import StopRequestedError
from fedafd.agent.policy import SitePolicy, as_taken
from fedafd.agent.privacy_account import PrivacyAccount
from fedafd.agent.read_only import outlast_read_only
from fedafd.agent.renewal import Renewal
from fedafd.agent.session import AgentSession
from fedafd.agent.site_model import SiteModel
from fedafd.agent.sound_task import decoded_configuration, modality_of, moment_of, need_understood
from fedafd.agent.state import Credential, PendingResult, StateDirectory
from fedafd.agent.task_note import note_task
from fedafd.agent.training import (
    LocalResult,
    LocalTask,
    Trainer,
    TrainingCancelledError,
    WorkCount,
    train_watched,
)
from fedafd.domain.config import AgentConfig, AveragingMode, parse_federation_config
from fedafd.domain.errors import (
    FedafdError,
    ForbiddenError,
    IdentityInUseError,
    InvalidRequestError,
    RoundClosedError,
    UnauthenticatedError,
)
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.leaving import Activity, ActivityKind
from fedafd.domain.plain_text import plain_text
from fedafd.domain.process_errors import PolicyRefusedError, WeightsNotSharedError
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.telemetry.logging import bind_context, get_logger
from fedafd.telemetry.tracing import span_below

__all__ = ["Agent"]

_AFTER_ERROR_SECONDS = 5.0
_KEEP_SESSION_SECONDS = 10.0
"""Well below the aggregator's lease on a session."""
_LONGEST_REASON = 300
"""Characters of why to wait, as the federation says it, that are kept and shown."""
_log = get_logger(__name__)
T = TypeVar("T")


class _CredentialRefusedError(Exception):
    """The very first call was refused: the credential was revoked or replaced."""

    def __init__(self, error: UnauthenticatedError) -> None:
        super().__init__(str(error))
        self.error = error


class Agent:
    """One site's agent. `run` returns after `stop` was set; it raises what ends the agent for good."""

    def __init__(
        self,
        config: AgentConfig,
        trainer: Trainer,
        state: StateDirectory,
        *,
        stop: asyncio.Event,
        metrics: AgentMetrics,
        cache_limit_bytes: int,
        poll_seconds: float,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._state = state
        self._stop = stop
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._cache = ArtifactCache(state.root / "artifacts", limit_bytes=cache_limit_bytes)
        self._model = SiteModel(state.root)
        self._policy = SitePolicy(config, state.root)
        self._comparing = Comparing(config, state)
        self._ledger = Ledger(state.root)
        self._account = PrivacyAccount(config, state.root, self._ledger)
        self._delivery = Delivery(state, self._ledger, config.share, self._cache)
        self._work = WorkCount()

    async def run(self, token: str | None) -> None:
        """Enrol if need be, then serve.

        Raises UnauthenticatedError, IdentityInUseError, ConfigurationError.
        """
        session = AgentSession(self._state.root)
        with suppress(StopRequestedError):
            credential = self._state.load_credential() or await self._enrol(token)
            try:
                await self._serve_as(credential, session)
            except _CredentialRefusedError as refused:
                if not token:
                    raise refused.error from None
                _log.warning("agent.credential_refused", reason=str(refused.error), next="enrolling with the token")
                await self._serve_as(await self._enrol_anew(token, credential), session)

    async def _serve_as(self, credential: Credential, session: AgentSession) -> None:
        need_kind(credential, self._config.kind, self._state.root)
        connection = AggregatorConnection(
            self._config.aggregator,
            tls=self._config.tls,
            stop=self._stop,
            credential=credential,
            session=session,
            on_sent=self._metrics.bytes_sent.inc,
            on_received=self._metrics.bytes_received.inc,
            direct=self._config.direct_uploads,
        )
        renewal = Renewal(self._state, credential)
        try:
            with bind_context(federation=credential.federation_id, client=credential.client_name):
                await self._begin(connection, renewal)
                await self._serve(connection, renewal)
        finally:
            await self._comparing.stop()
            await connection.end_session()
            connection.call_count.write(self._ledger, 0)
            await connection.close()

    async def _begin(self, connection: AggregatorConnection, renewal: Renewal) -> None:
        """The first call: takes the session, before anything is delivered in the client's name."""
        await self._follow_delivery()
        await renewal.if_due(connection)
        try:
            await connection.fetch_task(0, 0.0)
        except UnauthenticatedError as error:
            raise _CredentialRefusedError(error) from error
        await self._delivery.settle_old(connection)
        await self._follow_delivery()

    async def _enrol_anew(self, token: str, old: Credential) -> Credential:
        """Take a new invitation in place of a refused credential; the personalized state stays if it still fits."""
        credential = await self._enrol(token)
        if credential.federation_id != old.federation_id:
            kept = self._state.set_state_aside(f"of-{old.federation_id}")
            if kept is not None:
                _log.warning("agent.state_set_aside", federation=old.federation_id, folder=str(kept))
        return credential

    async def _enrol(self, token: str | None) -> Credential:
        token, kind = need_token(token), self._config.kind
        credential = await enrol(self._config, token, kind, state=self._state, ledger=self._ledger, stop=self._stop)
        _log.info("agent.enrolled", federation=credential.federation_id, client=credential.client_name)
        return credential

    async def _serve(self, connection: AggregatorConnection, renewal: Renewal) -> None:
        revision, refused_at = 0, 0
        while not self._stop.is_set():
            await renewal.if_due(connection)
            try:
                answer = await connection.fetch_task(revision, self._poll_seconds)
            except (UnauthenticatedError, ForbiddenError, InvalidRequestError, IdentityInUseError):
                raise
            except FedafdError as error:
                _log.error("agent.fetch_failed", reason=str(error), code=error.code)
                await self._rest()
                continue
            if answer.revision == revision:
                continue
            revision = answer.revision
            if answer.other_agent_refused_at.seconds > refused_at:
                refused_at = answer.other_agent_refused_at.seconds
                _log.warning(
                    "agent.second_agent_refused",
                    at=str(moment_of(answer.other_agent_refused_at)),
                    reason=f"another agent has this site's credential: {self._state.root} was copied, or runs twice",
                )
            if answer.HasField("train"):
                task = answer.train
                until = moment_of(task.deadline) if task.HasField("deadline") else None
                note_task(self._state.root, round_number=task.round_number, deadline=until)
                await self._participate(connection, task)
            else:
                why = plain_text(answer.idle.reason[:_LONGEST_REASON])
                note_task(self._state.root, reason=why)
                _log.info("agent.idle", reason=why)

    async def _participate(self, connection: AggregatorConnection, task: pb.TrainTask) -> None:
        traced = span_below(task.traceparent or None, "participation", kind="CONSUMER", round=task.round_number)
        with bind_context(round_number=task.round_number), traced, self._metrics.training.track_inprogress():
            self._metrics.last_round.set(task.round_number)
            started = time.monotonic()
            living = asyncio.ensure_future(_keep_session(connection, task.round_id))
            try:
                outcome = await self._outlasting(connection, task, lambda: self._do_round(connection, task))
            except (TrainingCancelledError, RoundClosedError) as error:
                if self._stop.is_set():
                    raise StopRequestedError from error
                self._state.discard_pending()
                _log.warning("agent.round_closed", reason=str(error) or "the round closed for this client")
                outcome = "closed"
            except (StopRequestedError, UnauthenticatedError, ForbiddenError, IdentityInUseError):
                raise
            except PolicyRefusedError as error:
                _log.warning("agent.policy_refused", reason=str(error), code=error.reason.value)
                self._state.discard_pending(but_committed=True)
                await leave_round(connection, self._ledger, self._config, task, error)
                outcome = "refused"
            except Exception as error:
                # One bad round must not end the agent, nor hold up the others: say so and leave the round.
                _log.exception("agent.round_failed", reason=str(error))
                self._state.discard_pending(but_committed=True)
                await leave_round(connection, self._ledger, self._config, task, error)
                outcome = "failed"
            finally:
                living.cancel()
                connection.call_count.write(self._ledger, task.round_number)
            self._metrics.round_done(outcome, time.monotonic() - started)

    async def _do_round(self, connection: AggregatorConnection, task: pb.TrainTask) -> str:
        again = await asyncio.to_thread(self._state.delivered, task.round_id)
        if again is not None:
            _log.warning("agent.asked_again", round=task.round_number)
            with self._metrics.phase("deliver"):
                return "delivered" if await self._delivery.deliver(connection, again) else "rejected"
        await self._delivery.settle_old(connection, at_hand=task.round_id)
        with self._metrics.phase("download"):
            local = await self._fetch_inputs(connection, task)
        pending = self._state.load_pending()
        if pending is not None and pending.task_key == local.key():
            _log.info("agent.result_reused", reason="trained before the restart; only delivering")
        else:
            self._policy.need_rounds()
            with self._metrics.phase("train"):
                async with self._comparing.making_way():
                    report, check = self._reporter(connection, task.round_id), self._policy.watch()
                    result = await train_watched(
                        self._trainer, local, stop=self._stop, report=report, work=self._work, check=check
                    )
            pending = await self._outlasting(connection, task, lambda: asyncio.to_thread(self._keep, local, result))
            _log.info("agent.trained", **result.metrics)
        with self._metrics.phase("deliver"):
            delivered = await self._delivery.deliver(connection, pending, in_parts=task.takes_model_in_parts)
        if delivered:
            await self._follow_delivery()
        return "delivered" if delivered else "rejected"

    async def _outlasting(
        self, connection: AggregatorConnection, task: pb.TrainTask, work: Callable[[], Awaitable[T]]
    ) -> T:
        async def tell() -> None:
            doing, done = Activity(ActivityKind.WAITING_FOR_DISK), self._work.done
            if not await connection.report_progress(task.round_id, 0.95, doing, work_done=done):
                raise TrainingCancelledError

        return await outlast_read_only(work, stop=self._stop, tell=tell)

    def _reporter(
        self, connection: AggregatorConnection, round_id: str
    ) -> Callable[[float, Activity], Awaitable[bool]]:
        async def report(fraction: float, activity: Activity) -> bool:
            done = self._work.done
            return await connection.report_progress(round_id, 0.05 + 0.9 * fraction, activity, work_done=done)

        return report

    async def _follow_delivery(self) -> None:
        await asyncio.to_thread(self._model.refresh, self._state, self._cache)
        await self._comparing.follow()

    def _keep(self, local: LocalTask, result: LocalResult) -> PendingResult:
        blobs = {UploadPurpose.REPRESENTATIONS: result.representations}
        if result.weights is not None:
            blobs[UploadPurpose.WEIGHTS] = result.weights
        source = {
            "recipe": result.model_recipe,
            "bundles": {modality.value: path.name for modality, path in local.encoder_bundles.items()},
            "global_representations": local.global_representations.name,
        }
        return self._state.save_pending(
            round_id=local.round_id,
            round_number=local.round_number,
            task_key=local.key(),
            metrics=result.metrics | self._comparing.metrics(result.scores),
            num_private_samples=result.num_private_samples,
            state=result.state,
            blobs=blobs,
            shared_model=result.personalized_model if local.share_model else None,
            model_source=None if result.model_recipe is None else source,
            scores=result.scores,
        )

    async def _fetch_inputs(self, connection: AggregatorConnection, task: pb.TrainTask) -> LocalTask:
        need_understood(task)
        config = parse_federation_config(
            decoded_configuration(task.federation_config_json), "the federation's configuration"
        )
        if config.averaging is not AveragingMode.OFF and not self._config.share.weights:
            raise WeightsNotSharedError(
                f"the federation's strategy {config.strategy} averages weights, and this site shares none; set"
                " share.weights: true in agent.yaml to take part"
            )
        # The configuration is what a person approved and the policy allows: a task adds nothing to it.
        averages = [] if config.averaging is AveragingMode.OFF else [*task.averaged_weights]
        takes_model = task.accepts_personalized_model and config.accept_personalized_models
        named = [*task.public_set, task.global_representations, *task.encoder_bundles, *averages]
        # Each once, however often it is named: each use of a kept one reads all of it.
        artifacts = list({artifact.sha256: artifact for artifact in reversed(named)}.values())[::-1]
        sizes = {artifact.sha256: artifact.size_bytes for artifact in artifacts}
        comes_whole = {a.sha256: a.size_bytes for a in artifacts if not a.purpose.startswith(CHANGE_IN_PART)}
        trained = self._state.load_pending()
        at_hand = trained if trained is not None and trained.round_id == task.round_id else None
        await self._policy.admit(
            task,
            config,
            lambda: connection.download(task.public_set[0], self._cache),
            missing_bytes=self._cache.missing_bytes(comes_whole),
            at_hand=at_hand,
        )
        config = as_taken(self._config, config)
        previous = self._state.current_state(before=task.round_id)
        if at_hand is None:
            await asyncio.to_thread(self._account.need, config, task.round_number, is_new=previous is None)
        self._cache.trim(sizes.keys() | self._cache.newest_hashes({artifact.purpose for artifact in named}))
        self._cache.need_room(sizes)

        async def tell(number: int) -> None:
            doing = Activity(ActivityKind.DOWNLOADING, number + 1, len(artifacts))
            done, fraction = self._work.done, 0.05 * number / len(artifacts)
            if not await connection.report_progress(task.round_id, fraction, doing, work_done=done):
                raise TrainingCancelledError

        paths = await fetch(
            connection, self._cache, artifacts, own=self._config, federation=config, policy=self._policy, tell=tell
        )
        bundles = {modality_of(bundle): paths[bundle.sha256] for bundle in task.encoder_bundles}
        await self._policy.admit_bundles(bundles)
        return LocalTask(
            round_id=task.round_id,
            round_number=task.round_number,
            seed=task.seed,
            config=config,
            public_set_sha256=task.public_set_sha256,
            manifest=paths[task.public_set[0].sha256],
            shards=[paths[shard.sha256] for shard in task.public_set[1:]],
            global_representations=paths[task.global_representations.sha256],
            encoder_bundles=bundles,
            averages={w.purpose.partition("/")[2]: paths[w.sha256] for w in averages},
            previous_state=None if previous is None else previous[1],
            share_model=self._config.share.personalized_model and takes_model,
            representation_noise=self._config.share.representation_noise,
            dp=self._config.privacy.dp,
            spend=partial(self._account.spend, config, task.round_number, is_new=previous is None),
        )

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_ERROR_SECONDS):
                await self._stop.wait()


async def _keep_session(connection: AggregatorConnection, round_id: str) -> None:
    """Keep the session while a round is worked on, however long a step takes; what goes wrong, other calls tell."""
    with suppress(FedafdError, StopRequestedError):
        while True:
            await asyncio.sleep(_KEEP_SESSION_SECONDS)
            await connection.keep_session(round_id)
