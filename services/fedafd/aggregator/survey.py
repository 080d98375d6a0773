"""Keeps the survey of all federations in the coordinating aggregator's metrics."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.messaging.queue_depth import QueueDepth
from fedafd.persistence.models import utc_now
from fedafd.persistence.survey_repository import take_survey
from fedafd.telemetry.logging import get_logger

__all__ = ["watch_federations"]

_PRESENT = timedelta(minutes=2)
"""Above an agent's longest pause between two calls, 30 s of waiting and as much of backing off."""
_QUIET = 3
_log = get_logger(__name__)


async def watch_federations(
    context: Context, coordinator: Coordinator, queue: QueueDepth, seconds: float = 5.0
) -> None:
    """Survey while this aggregator coordinates, so that sums over replicas count once.

    Every `seconds`; three times as seldom without any news while no round is open.
    """
    with context.wakeups.of_rounds() as news:
        while True:
            quiet = coordinator.idle
            await _survey(context, coordinator, queue)
            await news.rest(seconds, _QUIET * seconds if quiet else seconds)


async def _survey(context: Context, coordinator: Coordinator, queue: QueueDepth) -> None:
    if not coordinator.leading:
        context.metrics.survey.show(None)
        return
    try:
        async with context.database.snapshot() as session:
            survey = await take_survey(session, utc_now() - _PRESENT)
        context.metrics.survey.show(survey, await asyncio.to_thread(queue.look))
    except Exception as error:
        # The database may be away for a while; health says so, this only has nothing to show.
        _log.warning("survey.failed", reason=str(error))
        context.metrics.survey.show(None)
