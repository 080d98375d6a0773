"""Leaves a round and says why in a code: while it is worked on, and when an agent cannot start because of its data."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.ledger import Ledger
from fedafd.agent.outgoing import Departure, departure_of
from fedafd.agent.patient_calls import StopRequestedError
from fedafd.agent.session import AgentSession
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError
from fedafd.domain.hashing import sha256_of
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.telemetry.logging import get_logger

__all__ = ["leave_open_round", "leave_round", "note_departure"]

_SECONDS = 10.0
"""An agent that ends anyway waits no longer for an aggregator."""
_log = get_logger(__name__)


async def leave_round(
    connection: AggregatorConnection, ledger: Ledger, config: AgentConfig, task: pb.TrainTask, error: Exception
) -> None:
    """Leave the round of `task` because of `error`; what is said is noted first, and what cannot be noted not said."""
    departure = departure_of(error, config.share)
    try:
        note_departure(ledger, departure, task.round_number)
        await connection.leave(task.round_id, departure)
    except (FedafdError, OSError) as refused:
        _log.warning("agent.leave_refused", reason=str(refused))


def note_departure(ledger: Ledger, departure: Departure, round_number: int) -> None:
    """Keep in the ledger what is about to be said. Raises what Ledger.record raises."""
    words = json.dumps({"reason": departure.reason.value, "num_affected": departure.num_affected}, sort_keys=True)
    content = words.encode()
    ledger.record(
        "leave",
        sha256=sha256_of(content),
        size_bytes=len(content),
        round_number=round_number,
        detail=words,
    )


async def leave_open_round(config: AgentConfig, state: StateDirectory, error: FedafdError) -> None:
    """Leave the round that waits for this site, if one does: the agent ends, and the federation need not wait.

    Nothing is said before the first enrolment, nor of a round whose result lies ready to be delivered.
    """
    with suppress(FedafdError, OSError, StopRequestedError, TimeoutError):
        credential = state.load_credential()
        if credential is not None:
            async with asyncio.timeout(_SECONDS):
                await _leave_open_round(config, state, credential, error)


async def _leave_open_round(
    config: AgentConfig, state: StateDirectory, credential: Credential, error: FedafdError
) -> None:
    connection = AggregatorConnection(
        config.aggregator,
        tls=config.tls,
        stop=asyncio.Event(),
        credential=credential,
        session=AgentSession(state.root),
    )
    try:
        answer = await connection.fetch_task(0, 0.0)
        pending = state.load_pending()
        if answer.HasField("train") and (pending is None or pending.round_id != answer.train.round_id):
            await leave_round(connection, Ledger(state.root), config, answer.train, error)
            _log.info("agent.left_round", round=answer.train.round_number, reason="its private data cannot be used")
        await connection.end_session()
    finally:
        connection.call_count.write(Ledger(state.root), 0)
        await connection.close()
