"""How much of a run each stage is, so that a bar moves evenly and the time left can be told from the first minute.

The unit is a sample that passes an encoder; a training step's sample counts three times: forwards, and backwards at
twice the cost. That modalities and encoders differ is left to the clock. What a step costs beside the encoder is not:
a client has discriminators, fusion, the frozen global model and small batches, distillation has targets. Measured with
the preset small on CPU, a sample of a client takes about 3, one of distillation 2 times as long as one of the server's
training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fedafd.domain.config import AlignmentMode, FederationConfig, FusionMode
from fedafd.domain.kinds import ClientKind
from fedafd.learning.alone import has_alone_branch
from fedafd.learning.server_round import distils

__all__ = ["DISTIL", "PREPARE", "ClientSize", "Effort"]

PREPARE, DISTIL = "prepare", "distil"
_TRAINED, _MODALITIES = 3, 2
_OF_CLIENT, _OF_DISTIL = 2.5, 2.0


class ClientSize(NamedTuple):
    """What a client's share of the work depends on."""

    kind: ClientKind
    num_train: int
    num_val: int


class Effort:
    """The work of a run of `rounds` rounds, by round and stage: `prepare`, each client's name, `distil`.

    Clients come in the order of their names, as a federation trains them.
    """

    def __init__(
        self, config: FederationConfig, num_public: int, clients: Mapping[str, ClientSize], rounds: int
    ) -> None:
        self._config, self._num_public = config, num_public
        self._rounds = [self._stages(number, clients) for number in range(1, rounds + 1)]
        self._total = sum(sum(stages.values()) for stages in self._rounds)

    def share(self, number: int, stage: str, fraction: float) -> float:
        """The share of the run that is done when `fraction` of a stage of round `number` is."""
        before = sum(sum(stages.values()) for stages in self._rounds[: number - 1])
        for name, work in self._rounds[number - 1].items():
            if name == stage:
                return (before + fraction * work) / self._total
            before += work
        return before / self._total

    def _stages(self, number: int, clients: Mapping[str, ClientSize]) -> dict[str, float]:
        config, public = self._config, self._num_public * _MODALITIES
        passes = config.server.passes + (config.server.initial_passes if number == 1 else 0)
        works = distils(config, number) or config.distillation.joint
        return {
            PREPARE: public * (_TRAINED * passes + 1),
            **{name: self._client(size) for name, size in sorted(clients.items())},
            DISTIL: _OF_DISTIL * public * _TRAINED * config.distillation.passes if works else 1,
        }

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
