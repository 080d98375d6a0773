"""One federation in one process: every role runs the very functions that the services run, in the same order.

Seeds, merge tree and wire rounding are the services', so that a simulated round gives the same bits as a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedafd.artifacts.representations import decode_representations, encode_representations
from fedafd.datasets.samples import ClientData, PairSplit
from fedafd.domain.config import AveragingMode, DpConfig, EncoderConfig, FederationConfig, TaskConfig, usual_task
from fedafd.domain.contributions import Contribution
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.merge_tree import plan_merges
from fedafd.domain.seeds import derive_seed
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.client_round import ClientEvaluation, ClientRound, evaluate_client, train_client
from fedafd.learning.ensemble import aggregate, fold_state, merge_states
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.fedavg import average_updates, weight_update
from fedafd.learning.privacy_accountant import epsilon_of_rounds
from fedafd.learning.private_steps import PrivateTraining
from fedafd.learning.server_round import Prepared, evaluate, initial_server_state
from fedafd.learning.waypoints import Waypoints
from fedafd.learning.weighing import score_sheet, weigh
from fedafd.simulation.cost import Traffic, bytes_to_fetch
from fedafd.simulation.effort import DISTIL, EVALUATE, PREPARE
from fedafd.simulation.round_stages import UNKEPT, RoundStages
from fedafd.simulation.server_stages import ServerStages

__all__ = ["ClientProgress", "Federation", "FederationProgress", "SimulatedClient"]

Reps = Mapping[Modality, NDArray[np.float32]]
Watch = Callable[[str, float, str], None]
"""Told of the stage at work (fedafd.simulation.effort), how much of it is done, and in words what is being done."""
_NO_PUBLIC_SET = "0" * 64


@dataclass(frozen=True, kw_only=True)
class SimulatedClient:
    """A client with its private data and, where they differ from the federation's, its encoders."""

    name: str
    kind: ClientKind
    data: ClientData
    image_encoder: EncoderConfig | None = None
    text_encoder: EncoderConfig | None = None
    task: TaskConfig | None = None
    """None: the usual one of its kind."""
    dp: DpConfig | None = None
    """Train by DP-SGD, with a budget of this client's own."""


@dataclass(frozen=True, kw_only=True)
class ClientProgress:
    """A client after its last participation: state, and the round's inputs that its evaluation needs."""

    state: bytes | None = None
    round_number: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Of each sample of the split that `metrics` are of (fedafd.learning.evaluation)."""


@dataclass(frozen=True, kw_only=True)
class FederationProgress:
    """All that a federation carries from one round to the next; `round_number` rounds are done."""

    round_number: int = 0
    server_state: bytes | None = None
    clients: Mapping[str, ClientProgress] = field(default_factory=dict)
    averages: Mapping[str, bytes] = field(default_factory=dict)
    server: Evaluation | None = None
    representations: Reps = field(default_factory=dict)
    bundles: Mapping[Modality, bytes] = field(default_factory=dict)
    uploads: Mapping[str, Reps] = field(default_factory=dict)
    """What each client sent last, as it arrived."""
    ages: Mapping[str, int] = field(default_factory=dict)
    """How many rounds ago that was."""
    contributions: Mapping[Modality, Mapping[str, Contribution]] = field(default_factory=dict)
    """By modality and client, of the last round; empty where weights are not looked at."""
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    """Of each client that took part in the last round."""


class Federation:
    """A federation of `clients`, in the order of their names, on a public set with splits train, val and test."""

    def __init__(
        self,
        config: FederationConfig,
        public: Mapping[str, PairSplit],
        clients: Sequence[SimulatedClient],
        *,
        device: str = "auto",
        public_set_sha256: str = _NO_PUBLIC_SET,
        kept_stages: Path | None = None,
    ) -> None:
        """`kept_stages`: a folder for the server's stages that this federation has in common with others."""
        self.config, self.public, self.device = config, public, device
        self._server = ServerStages(config, public["train"], device=device, folder=kept_stages)
        self.clients = sorted(clients, key=lambda client: client.name)
        self._sha256 = public_set_sha256

    def check_budgets(self, rounds: int) -> None:
        """Raises ConfigurationError if a client's privacy budget ends before the rounds do; nothing is trained."""
        for client in self.clients:
            if client.dp is not None:
                self._need_budget(client, client.dp, rounds)

    def run_round(
        self,
        before: FederationProgress,
        *,
        absent: Collection[str] = (),
        evaluate_on: str = "val",
        watch: Watch = lambda _, __, ___: None,
        stages: RoundStages = UNKEPT,
    ) -> FederationProgress:
        """One round; the clients `absent` deliver nothing. Metrics are of the split `evaluate_on`.

        What `stages` holds of the round is not done again.

        Raises what the roles raise.
        """
        number = before.round_number + 1
        prepared = self.prepared(before, watch=watch, stages=stages)
        after: dict[str, ClientProgress] = {}
        uploads: dict[str, Reps] = {}
        ages: dict[str, int] = {}
        updates: list[bytes] = []
        traffic: dict[str, Traffic] = {}
        sent_down = self._sent_bytes(prepared.representations)
        for client in self.clients:
            watch(client.name, 0.0, f"client {client.name}")
            progress = before.clients.get(client.name, ClientProgress())
            if client.name in absent:
                after[client.name] = progress
                if client.name in before.uploads:
                    uploads[client.name], ages[client.name] = before.uploads[client.name], before.ages[client.name] + 1
                continue
            result = stages.client(
                client.name,
                lambda waypoints, client=client, progress=progress: self._train(  # type: ignore[misc]
                    client, progress, before, prepared, number, evaluate_on, watch, waypoints
                ),
            )
            after[client.name] = ClientProgress(
                state=result.state, round_number=number, metrics=result.metrics, scores=result.scores
            )
            uploads[client.name], ages[client.name] = self.as_sent(client.kind.modalities, result.representations), 0
            up = self._sent_bytes(uploads[client.name])
            down = sent_down + sum(
                bytes_to_fetch(prepared.bundles[m], before.bundles.get(m)) for m in client.kind.modalities
            )
            if self.config.averaging is not AveragingMode.OFF:
                updates.append(weight_update(result.state, result.num_private_samples))
                up += len(updates[-1])
                down += len(updates[-1]) if before.averages else 0  # an average has the layout of what it is of
            traffic[client.name] = Traffic(up, down)
        state, contributions = self.distilled(prepared, number, uploads, ages, watch=watch, stages=stages)
        watch(EVALUATE, 0.0, "server: evaluation")
        evaluated = evaluate(config=self.config, state=state, samples=self.public[evaluate_on], device=self.device)
        watch(EVALUATE, 1.0, "server: evaluation")
        return FederationProgress(
            round_number=number,
            server_state=state,
            clients=after,
            averages=average_updates(updates) if updates else {},
            server=evaluated,
            representations=prepared.representations,
            bundles=prepared.bundles,
            uploads=uploads,
            ages=ages,
            contributions=contributions,
            traffic=traffic,
        )

    def prepared(
        self, before: FederationProgress, *, watch: Watch = lambda _, __, ___: None, stages: RoundStages = UNKEPT
    ) -> Prepared:
        """What the server makes for the round after `before`, its representations as they arrive at the sites."""
        number = before.round_number + 1
        watch(PREPARE, 0.0, "server: preparing")
        state = before.server_state or initial_server_state(
            config=self.config, captions=self.public["train"].captions, seed=self.config.seed
        )
        server_round = self._server.prepare(
            state,
            number,
            self._seed(number, "server", "prepare"),
            stages,
            lambda fraction, activity: watch(PREPARE, fraction, f"server: {activity}"),
        )
        return replace(server_round, representations=self.as_sent(Modality, server_round.representations))

    def distilled(
        self,
        prepared: Prepared,
        number: int,
        uploads: Mapping[str, Reps],
        ages: Mapping[str, int] = MappingProxyType({}),
        *,
        watch: Watch = lambda _, __, ___: None,
        stages: RoundStages = UNKEPT,
    ) -> tuple[bytes, dict[Modality, dict[str, Contribution]]]:
        """The server's state after round `number`, and what each client counted for in it."""
        watch(DISTIL, 0.0, "server: distillation")
        aggregates, contributions = self._aggregates(uploads, ages, prepared.representations)
        state = self._server.distil(
            prepared.state,
            number,
            self._seed(number, "server", "distil"),
            prepared.representations,
            aggregates,
            stages,
            lambda fraction, activity: watch(DISTIL, fraction, f"server: distillation, {activity}"),
        )
        return state, contributions

    def as_sent(self, modalities: Iterable[Modality], reps: Reps) -> dict[Modality, NDArray[np.float32]]:
        """Representations as they arrive: rounded by the wire. Raises RepresentationError for what no site may send."""
        sent = encode_representations(dict(reps), self._sha256, self.config.wire_dtype)
        return decode_representations(
            sent,
            modalities=list(modalities),
            num_samples=len(self.public["train"]),
            embedding_dim=self.config.embedding_dim,
            public_set_sha256=self._sha256,
            dtype=self.config.wire_dtype,
        )

    def _sent_bytes(self, reps: Reps) -> int:
        return len(encode_representations(dict(reps), self._sha256, self.config.wire_dtype))

    def evaluate_server(self, state: bytes, split: str = "test") -> dict[str, float]:
        """Recalls of a server state on a split of the public set."""
        return evaluate(config=self.config, state=state, samples=self.public[split], device=self.device).metrics

    def evaluate_client(
        self, name: str, state: bytes, representations: Reps, bundles: Mapping[Modality, bytes], split: str = "test"
    ) -> dict[str, float]:
        """Metrics of a client's state on its own split, with what its round had sent."""
        return self.examine_client(name, state, representations, bundles, split).metrics

    def examine_client(
        self, name: str, state: bytes, representations: Reps, bundles: Mapping[Modality, bytes], split: str = "test"
    ) -> ClientEvaluation:
        """As evaluate_client, with each sample's scores."""
        client = next(client for client in self.clients if client.name == name)
        return evaluate_client(
            config=self.config,
            kind=client.kind,
            data=client.data,
            global_representations=representations,
            bundles={m: bundles[m] for m in client.kind.modalities},
            state=state,
            evaluate_on=split,  # type: ignore[arg-type]
            device=self.device,
        )

    def _train(
        self,
        client: SimulatedClient,
        own_progress: ClientProgress,
        before: FederationProgress,
        prepared: Prepared,
        number: int,
        evaluate_on: str,
        watch: Watch,
        waypoints: Waypoints,
    ) -> ClientRound:
        return train_client(
            config=self.config,
            kind=client.kind,
            image_encoder=client.image_encoder,
            text_encoder=client.text_encoder,
            data=client.data,
            public=self.public["train"],
            global_representations=prepared.representations,
            bundles={m: prepared.bundles[m] for m in client.kind.modalities},
            state=own_progress.state,
            round_number=number,
            seed=self._seed(number, client.name, "train"),
            device=self.device,
            average_of=None if self.config.averaging is AveragingMode.OFF else before.averages.get,
            evaluate_on=evaluate_on,  # type: ignore[arg-type]
            progress=lambda fraction, activity: watch(client.name, fraction, f"client {client.name}: {activity}"),
            waypoints=waypoints,
            fingerprint=StateFingerprint(task=client.task or usual_task(client.kind)),
            private=self._private(client, number),
        )

    def _private(self, client: SimulatedClient, number: int) -> PrivateTraining | None:
        """Of round `number`, as if the client had trained in all before. Its chance follows from the seed: a trial."""
        dp = client.dp
        if dp is None:
            return None

        def spend() -> None:
            self._need_budget(client, dp, number)

        return PrivateTraining(config=dp, spend=spend, secret=self._seed(number, client.name, "dp"))

    def _need_budget(self, client: SimulatedClient, dp: DpConfig, number: int) -> None:
        """Raises ConfigurationError if as many rounds spend more than the client's budget."""
        epsilon = epsilon_of_rounds(dp, self.config, client.kind, number)
        if epsilon > dp.epsilon:
            raise ConfigurationError(
                f"client {client.name}: dp.epsilon is {dp.epsilon:g}, but with round {number} it would be"
                f" {epsilon:.3g}; run fewer rounds, or set a larger noise_multiplier or epsilon"
            )

    def _seed(self, number: int, who: str, stage: str) -> int:
        return derive_seed(self.config.seed, number, who, stage)

    def _aggregates(
        self, uploads: Mapping[str, Reps], ages: Mapping[str, int], global_reps: Reps
    ) -> tuple[dict[Modality, NDArray[np.float32]], dict[Modality, dict[str, Contribution]]]:
        aggregates, contributions = {}, {}
        distillation = self.config.distillation
        oldest = 0 if distillation.staleness_decay is None else distillation.max_staleness
        for modality in Modality if self.config.distillation.enabled else ():
            leaves: dict[int, bytes | None] = {}
            for position, client in enumerate(self.clients):
                reps, age = uploads.get(client.name, {}).get(modality), ages.get(client.name, 0)
                leaves[position] = None
                if reps is not None and age <= oldest:
                    leaves[position] = fold_state(
                        self.config, modality, reps, global_reps, device=self.device, staleness=age
                    )
            weighed, limit = self._weigh(modality, leaves, global_reps)
            contributions[modality] = {self.clients[position].name: weight for position, weight in weighed.items()}
            leaves |= {position: None for position, weight in weighed.items() if weight.left_out}
            merged: dict[tuple[int, int], bytes] = {}
            while not (plan := plan_merges(len(self.clients), leaves, merged)).settled:
                for step in plan.ready:
                    merged[step.level, step.position] = merge_states(step.children, limit)
            if plan.root is not None:
                aggregates[modality] = aggregate(self.config, plan.root)
        return aggregates, contributions

    def _weigh(
        self, modality: Modality, leaves: Mapping[int, bytes | None], global_reps: Reps
    ) -> tuple[dict[int, Contribution], bytes | None]:
        """What each leaf counts for, and the limit for the merges; nothing where weights are not looked at."""
        states = {position: state for position, state in leaves.items() if state is not None}
        if not states or not self.config.distillation.caps_weights:
            return {}, None
        weighed = weigh(
            self.config, [score_sheet(self.config, modality, state, global_reps) for state in states.values()]
        )
        return dict(zip(states, weighed.contributions, strict=True)), weighed.limit
