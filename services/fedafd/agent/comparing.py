"""The agent notes each delivered round, tells whether it helped the site, and has the baseline trained."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from fedafd.agent.background import Background
from fedafd.agent.baseline import baseline_target
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.benefit import RoundBenefit, benefit_of
from fedafd.agent.history import DeliveredRound, History
from fedafd.agent.kept_scores import KeptScores
from fedafd.agent.state import StateDirectory
from fedafd.agent.tracking import SiteTracking
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import DataError, FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["Comparing"]

_log = get_logger(__name__)


class Comparing:
    """Of one agent. Nothing here may end a round: what goes wrong is logged."""

    def __init__(self, config: AgentConfig, state: StateDirectory) -> None:
        self._state = state
        self._history, self._baseline = History(state.root), BaselineFolder(state.root)
        self._tracking = SiteTracking(config, state)
        self._background = Background(config, trained=self._tell_alone)

    async def follow(self) -> None:
        """A round may have been delivered: note it and tell what it gave, and let the baseline go on."""
        try:
            if await asyncio.to_thread(self._history.follow, self._state):
                await asyncio.to_thread(self._tell)
            await asyncio.to_thread(self._tracking.show)
            await self._background.wake()
        except (FedafdError, OSError) as error:
            _log.error("agent.not_compared", reason=str(error))

    def making_way(self) -> AbstractAsyncContextManager[None]:
        """While a round is trained."""
        return self._background.making_way()

    async def stop(self) -> None:
        """End what runs in the background."""
        await self._background.stop()
        await asyncio.to_thread(self._tracking.close)

    def metrics(self, scores: bytes | None) -> dict[str, float]:
        """Metrics that compare a round that was just trained with the other models; `scores` are KeptScores."""
        if scores is None:
            return {}
        try:
            trained = DeliveredRound(
                number=0,
                participation=baseline_target(self._state.root) + 1,
                delivered_at="",
                splits=dict(KeptScores.from_bytes(scores).splits),
            )
        except DataError as error:
            _log.error("agent.not_compared", reason=str(error))
            return {}
        return benefit_of(trained, self._baseline).metrics()

    def _tell_alone(self, rounds: int) -> None:
        """Report both models side by side where the baseline has trained for as many rounds as the last model."""
        benefit = self._last()
        if benefit is not None and benefit.participation == rounds:
            self._tell(benefit)
        self._tracking.show()

    def _tell(self, benefit: RoundBenefit | None = None) -> None:
        benefit = benefit or self._last()
        if benefit is None:
            return
        _log.info("agent.compared", summary=benefit.words())
        for warning in benefit.warnings():
            _log.warning("agent.model_is_worse", reason=warning)

    def _last(self) -> RoundBenefit | None:
        rounds = self._history.rounds()
        return benefit_of(rounds[-1], self._baseline) if rounds else None
