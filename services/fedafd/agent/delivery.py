"""Delivers a finished result so that a crash at any point repeats no training and loses no receipt."""

from __future__ import annotations

import asyncio
import json

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.chunks import ChunkedFile
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.ledger import Ledger
from fedafd.agent.outgoing import metrics_to_send, samples_to_send
from fedafd.agent.shared_model import SharedModel
from fedafd.agent.state import PendingResult, StateDirectory
from fedafd.domain.config import SharingConfig
from fedafd.domain.errors import FedafdError, UploadIncompleteError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import UploadPurpose
from fedafd.telemetry.logging import get_logger

__all__ = ["Delivery"]

_UPLOAD_TRIES = 3
_log = get_logger(__name__)


class Delivery:
    """Uploads, commits, and settles the pending result by what the receipt says."""

    def __init__(self, state: StateDirectory, ledger: Ledger, share: SharingConfig, cache: ArtifactCache) -> None:
        self._state = state
        self._ledger = ledger
        self._share = share
        self._model = SharedModel(state, cache)

    async def deliver(
        self, connection: AggregatorConnection, pending: PendingResult, *, in_parts: bool = False
    ) -> bool:
        """Upload and commit; True if it counts. Raises RoundClosedError when the round no longer waits for it.

        `in_parts`: the aggregator takes a personalized model so. Where a part is not there any more, it goes whole.
        """
        for tries_left in reversed(range(_UPLOAD_TRIES)):
            try:
                return await self._deliver_once(connection, pending, in_parts=in_parts)
            except UploadIncompleteError as error:
                if not tries_left:
                    raise
                _log.warning("agent.upload_incomplete", round=pending.round_number, reason=str(error))
                in_parts = False
        raise AssertionError("the last try returns or raises")

    async def _deliver_once(self, connection: AggregatorConnection, pending: PendingResult, *, in_parts: bool) -> bool:
        upload_ids = []
        files = await asyncio.to_thread(self._model.to_send, pending, in_parts=in_parts)
        for purpose, file in files.items():
            blob = await asyncio.to_thread(ChunkedFile.of, file.path)
            upload_ids.append(await self._upload(connection, pending, purpose, blob, file.detail))
        pending = self._state.note_uploads(pending, tuple(upload_ids))
        return await self._commit(connection, pending)

    async def settle_old(self, connection: AggregatorConnection, *, at_hand: str = "") -> None:
        """After a restart, or a disk that failed: ask again for the receipt of a result that was perhaps committed.

        Not for a result of the round `at_hand`, which is delivered again anyway.
        """
        pending = self._state.load_pending()
        if pending is None or not pending.upload_ids or pending.round_id == at_hand:
            return
        try:
            await self._commit(connection, pending)
        except UploadIncompleteError as error:
            # If the round still waits for it, its task says so, and the result is delivered then.
            _log.warning("agent.upload_incomplete", round=pending.round_number, reason=str(error))
        except FedafdError as error:
            _log.warning("agent.old_result_discarded", round=pending.round_number, reason=str(error))
            self._state.discard_pending()

    async def _upload(
        self,
        connection: AggregatorConnection,
        pending: PendingResult,
        purpose: UploadPurpose,
        blob: ChunkedFile,
        detail: str,
    ) -> str:
        self._ledger.record(
            purpose.value,
            sha256=blob.sha256,
            size_bytes=blob.size_bytes,
            round_number=pending.round_number,
            detail=detail,
        )
        return await connection.upload(pending.round_id, purpose, blob)

    async def _commit(self, connection: AggregatorConnection, pending: PendingResult) -> bool:
        metrics = metrics_to_send(pending.metrics, self._share)
        samples = samples_to_send(pending.num_private_samples, self._share)
        content = json.dumps({"metrics": metrics, "num_private_samples": samples}, sort_keys=True)
        self._ledger.record(
            "metrics",
            sha256=sha256_of(content.encode()),
            size_bytes=len(content),
            round_number=pending.round_number,
            detail=content,
        )
        whole = pending.blobs().get(UploadPurpose.PERSONALIZED_MODEL)
        receipt = await connection.commit(
            pending.round_id,
            pending.upload_ids,
            metrics,
            samples,
            model_bytes=0 if whole is None else whole.stat().st_size,
        )
        if receipt.accepted:
            if pending.waits:
                await asyncio.to_thread(self._model.remember, pending)
                self._state.promote(pending)
            _log.info("agent.delivered", round=pending.round_number, receipt=receipt.receipt)
        else:
            if pending.waits:
                self._state.discard_pending()
            _log.error("agent.delivery_rejected", round=pending.round_number, reason=receipt.rejection_reason)
        return receipt.accepted
