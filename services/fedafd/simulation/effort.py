"""How much work each stage of a run is, so that a bar moves evenly and the time left can be told from the first minute.

The unit is a sample that passes an encoder; a training step's sample counts three times: forwards, and backwards at
twice the cost. What a step costs beside the encoder differs: a client has discriminators, fusion, the frozen global
model and small batches, distillation has targets. Measured with the preset small on CPU, a sample of a client takes
about 3, one of distillation 2 times as long as one of the server's training. That is where a run begins; what its
stages took then takes the place of it (fedafd.simulation.forecast).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from fedafd.domain.config import AlignmentMode, FederationConfig, FusionMode
from fedafd.domain.kinds import ClientKind
from fedafd.learning.alone import has_alone_branch
from fedafd.learning.server_round import distils

__all__ = ["DISTIL", "EVALUATE", "PREPARE", "TEST", "ClientSize", "Effort", "Stage"]

PREPARE, DISTIL, EVALUATE, TEST = "prepare", "distil", "evaluate", "test"
_TRAINED, _MODALITIES = 3, 2
_OF_CLIENT, _OF_DISTIL = 2.5, 2.0


class ClientSize(NamedTuple):
    """What a client's share of the work depends on."""

    kind: ClientKind
    num_train: int
    num_val: int


class Stage(NamedTuple):
    """A stage of a round, or the test at the end of a run."""

    name: str
    """`prepare`, a client's name, `distil`, `evaluate` or `test`."""
    kind: str
    """As `name`; of a client image, text or pair."""
    work: float
    common: bool = False
    """Whether another run of the same seed may have done it for this one (fedafd.simulation.server_stages)."""


class Effort:
    """The work of a run of `rounds` rounds, by round and stage, with all clients in every round.

    Clients come in the order of their names, as a federation trains them.
    """

    def __init__(
        self, config: FederationConfig, num_public: int, clients: Mapping[str, ClientSize], rounds: int
    ) -> None:
        self._config, self._num_public = config, num_public
        self.num_rounds = rounds
        self.clients = [Stage(name, size.kind.value, self._client(size)) for name, size in sorted(clients.items())]
        tested = sum(size.num_val * len(size.kind.modalities) for size in clients.values())
        self.test = Stage(TEST, TEST, tested + num_public)
        trained = sum(stage.work for stage in self.clients)
        self._before = [0.0]
        for number in range(1, rounds + 1):
            self._before.append(self._before[-1] + trained + sum(stage.work for stage in self.server(number)))
        self._begins: tuple[int, dict[str, tuple[Stage, float]]] = (0, {})

    def share(self, number: int, name: str, fraction: float) -> float:
        """The share of the run that is done when `fraction` of a stage of round `number` is."""
        stage, begins = self._round(number)[name]
        return (begins + fraction * stage.work) / self._before[-1]

    def stage(self, number: int, name: str) -> Stage:
        """A stage of round `number` by its name."""
        return self._round(number)[name][0]

    def server(self, number: int) -> Sequence[Stage]:
        """The server's stages of round `number`: before its clients', and two after them."""
        config, public = self._config, self._num_public * _MODALITIES
        passes = config.server.passes + (config.server.initial_passes if number == 1 else 0)
        works = distils(config, number) or config.distillation.joint
        taught = _OF_DISTIL * public * _TRAINED * config.distillation.passes if works else 1
        return (
            Stage(PREPARE, PREPARE, public * (_TRAINED * passes + 1), common=not distils(config, number - 1)),
            Stage(DISTIL, DISTIL, taught, common=works and not distils(config, number)),
            Stage(EVALUATE, EVALUATE, self._num_public),
        )

    def _round(self, number: int) -> dict[str, tuple[Stage, float]]:
        """Each stage with the work before it, in order; the last round asked for is kept."""
        if self._begins[0] != number:
            prepare, *after = self.server(number)
            stages = [prepare, *self.clients, *after]
            begins = accumulate((stage.work for stage in stages), initial=self._before[number - 1])
            self._begins = (number, {stage.name: (stage, at) for stage, at in zip(stages, begins, strict=False)})
        return self._begins[1]

    def _client(self, size: ClientSize) -> float:
        config, modalities = self._config, len(size.kind.modalities)
        epoch = 0 if config.fusion.mode is FusionMode.GLOBAL else size.num_train
        if config.alignment.mode is not AlignmentMode.OFF:
            limit = min(config.client.public_samples_per_epoch or self._num_public, self._num_public)
            epoch += size.num_train if config.alignment.schedule == "joint" else limit
        if has_alone_branch(config, size.kind):
            epoch += size.num_train
        once = size.num_train + size.num_val + self._num_public
        return _OF_CLIENT * modalities * (_TRAINED * config.client.local_epochs * epoch + once)
