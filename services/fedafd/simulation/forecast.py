"""Seconds that a run still takes, from the seconds that its stages took: first guesses are replaced as stages end.

One forecast lives in each worker, over all runs that it does: what a stage costs in one run tells something of the
same stage in the next. It is the most that stages of the same client under the same strategy tell, and the least that
any stage tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fedafd.simulation.effort import TEST, ClientSize, Effort, Stage
from fedafd.simulation.experiment import ExperimentConfig, RunKey

__all__ = ["Forecast", "WholeRun"]

_WEIGHT_OF_OLDER = 0.7
"""The machine may be busier than before: what was measured last counts most."""
_KNOWN_AFTER_SECONDS, _KNOWN_AFTER_FRACTION = 5.0, 0.1
"""A stage at work says nothing before."""
_SUM_SECONDS = 2.0
_ANY = ""
Kinds = dict[str, tuple[float, float]]
"""Work and seconds by kind of stage."""


class WholeRun(NamedTuple):
    """Seconds of a run from its beginning to its end."""

    alone: float
    after_others: float
    """Where runs of the same seed did the server's stages that they have in common."""


class _Pace:
    """Seconds for a unit of work, by what is known of a stage, from the most to the least telling."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def note(self, strategy: str, stage: Stage, seconds: float) -> None:
        for key in self._keys(strategy, stage):
            older_work, older_seconds = self._seen.get(key, (0.0, 0.0))
            work = _WEIGHT_OF_OLDER * older_work + stage.work
            self._seen[key] = (work, _WEIGHT_OF_OLDER * older_seconds + seconds)

    def knows(self, strategy: str, stage: Stage) -> bool:
        """Whether this strategy's stage was measured, not only others like it."""
        return self._keys(strategy, stage)[0] in self._seen

    def seconds(self, strategy: str, stage: Stage) -> float | None:
        for key in self._keys(strategy, stage):
            if key in self._seen:
                work, seconds = self._seen[key]
                return stage.work * seconds / work
        return None

    @staticmethod
    def _keys(strategy: str, stage: Stage) -> Sequence[str]:
        return (f"{strategy}/{stage.kind}/{stage.name}", f"{strategy}/{stage.kind}", stage.kind, _ANY)


class _At(NamedTuple):
    """The stage at work."""

    stage: Stage
    began: float
    measured: bool
    """Whether it began at its beginning."""
    fraction: float = 0.0
    num_reports: int = 0
    """How often it reported; one that does nothing is only announced."""


class Forecast:
    """Watches the stages of one run after the other."""

    def __init__(self, experiment: ExperimentConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._experiment, self._clock = experiment, clock
        self._pace = _Pace()
        self._efforts: dict[str, Effort] = {}
        self._strategy, self._first_of_seed = "", True
        self._number = 1
        self._at: _At | None = None
        self._kinds: Kinds = {}
        self._skips = True
        """Whether the last stage that runs have in common was there already, where others of the seed came before."""
        self._later: tuple[float, float | None] | None = None

    def begin(self, key: RunKey, num_public: int, sizes: Mapping[str, ClientSize]) -> Effort:
        """A run is at work from now on; returns its effort."""
        experiment = self._experiment
        self._efforts = {
            name: Effort(
                experiment.federation_config(key.model_copy(update={"strategy": name})),
                num_public,
                sizes,
                experiment.rounds,
            )
            for name in experiment.strategies
        }
        self._strategy = key.strategy
        self._first_of_seed = key == next(run for run in experiment.runs() if run.seed == key.seed)
        self._at, self._later, self._kinds, self._skips = None, None, {}, True
        return self._efforts[key.strategy]

    def learn(self, kinds: Mapping[str, Sequence[float]]) -> None:
        """What was measured in an earlier round of this run, maybe by an earlier command."""
        for kind, (work, seconds) in kinds.items():
            self._pace.note(self._strategy, Stage(kind, kind, work), seconds)
        self._later = None

    def at(self, number: int, name: str, fraction: float, *, kept: bool = False) -> None:
        """A stage has come so far. `kept`: some of it, or all, was done by an earlier command."""
        if self._at is None or (number, name) != (self._number, self._at.stage.name):
            self.ended()
            self._number = number
            self._at = _At(self._own.stage(number, name), self._clock(), measured=not kept)
        self._at = self._at._replace(fraction=fraction, num_reports=self._at.num_reports + 1)

    def testing(self) -> None:
        """The rounds are done, the test at the end begins."""
        self.ended()
        self._number = self._own.num_rounds + 1
        self._at = _At(self._own.test, self._clock(), measured=True, num_reports=2)

    def ended(self) -> None:
        """The stage at work is over; one that was only announced was there already, or had nothing to do."""
        at, self._at, self._later = self._at, None, None
        if at is None or not at.measured:
            return
        if at.stage.common:
            self._skips = at.num_reports == 1
        if at.num_reports == 1:
            return
        seconds = self._clock() - at.began
        self._pace.note(self._strategy, at.stage, seconds)
        work, before = self._kinds.get(at.stage.kind, (0.0, 0.0))
        self._kinds[at.stage.kind] = (work + at.stage.work, before + seconds)

    def measured(self) -> Kinds:
        """The stages that ended since the last call, or since the run began."""
        kinds, self._kinds = self._kinds, {}
        return kinds

    def seconds_left(self) -> float | None:
        """Of the run at work; None before anything is known."""
        if self._at is None:
            return None
        at, elapsed, rate = self._at, self._clock() - self._at.began, None
        if at.measured and elapsed >= _KNOWN_AFTER_SECONDS and at.fraction >= _KNOWN_AFTER_FRACTION:
            rate = elapsed / (at.fraction * at.stage.work)
        if rate is not None and not self._pace.knows(self._strategy, at.stage):
            whole: float | None = rate * at.stage.work
        else:
            whole = self._seconds(self._strategy, at.stage, rate)
        later = self._later_seconds(rate)
        return None if whole is None or later is None else (1 - at.fraction) * whole + later

    def whole_runs(self) -> dict[str, WholeRun]:
        """Of each strategy; those that nothing is known of are missing."""
        whole = {}
        for name, effort in self._efforts.items():
            numbers = range(1, effort.num_rounds + 1)
            alone = self._sum(name, [*self._server_stages(name, numbers, spared=False), effort.test])
            trained = self._sum(name, effort.clients)
            after = self._sum(name, [*self._server_stages(name, numbers, spared=True), effort.test])
            if alone is not None and after is not None and trained is not None:
                trained *= 1 + (effort.num_rounds - 1) * self._experiment.participation
                whole[name] = WholeRun(alone + trained, after + trained)
        return whole

    @property
    def _own(self) -> Effort:
        return self._efforts[self._strategy]

    def _later_seconds(self, rate: float | None) -> float | None:
        """Of all stages after the one at work, added up anew at times only: a big federation has many."""
        now = self._clock()
        if self._later is None or now >= self._later[0] + _SUM_SECONDS:
            self._later = (now, self._after_this(rate))
        return self._later[1]

    def _after_this(self, rate: float | None) -> float | None:
        assert self._at is not None
        effort, name, number = self._own, self._at.stage.name, self._number
        if self._at.stage.kind == TEST:
            return 0.0
        spared = self._skips and not self._first_of_seed
        server = list(self._server_stages(self._strategy, range(number + 1, effort.num_rounds + 1), spared=spared))
        now = [stage.name for stage in effort.server(number)]
        server += effort.server(number)[now.index(name) + 1 if name in now else 1 :]
        clients = effort.clients
        if name not in now:
            clients = clients[[client.name for client in clients].index(name) + 1 :]
        elif name != now[0]:
            clients = []
        share = 1.0 if number == 1 else self._experiment.participation
        this = self._sum(self._strategy, clients, rate)
        later = self._sum(self._strategy, effort.clients, rate)
        rest = self._sum(self._strategy, [*server, effort.test], rate)
        if this is None or later is None or rest is None:
            return None
        return share * this + (effort.num_rounds - number) * self._experiment.participation * later + rest

    def _server_stages(self, strategy: str, numbers: Sequence[int], *, spared: bool) -> Iterator[Stage]:
        """Those of these rounds; `spared`: but for what runs of the same seed did before."""
        names = list(self._efforts)
        # The first strategy has others of its seed before it from the second scenario on, and these are all.
        before = names[: names.index(strategy)] or names
        for number in numbers:
            done = {stage for name in before for stage in self._efforts[name].server(number) if stage.common}
            for stage in self._efforts[strategy].server(number):
                if not spared or stage not in done:
                    yield stage

    def _sum(self, strategy: str, stages: Sequence[Stage], rate: float | None = None) -> float | None:
        total = 0.0
        for stage in stages:
            seconds = self._seconds(strategy, stage, rate)
            if seconds is None:
                return None
            total += seconds
        return total

    def _seconds(self, strategy: str, stage: Stage, rate: float | None) -> float | None:
        """Of a stage; by `rate` where nothing is known of any."""
        seconds = self._pace.seconds(strategy, stage)
        return rate * stage.work if seconds is None and rate is not None else seconds
