"""One client during one call: its personalized model, its splits, its optimizers, and what the server sent.

Shape legend: B a batch, N public samples, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedafd.algorithm.centring import public_mean
from fedafd.artifacts.folders import unpack_folder
from fedafd.datasets.samples import ClientData, PairSplit, Split, TextSplit
from fedafd.domain.blame import blaming
from fedafd.domain.config import AveragingMode, EncoderConfig, FederationConfig, FusionMode, usual_task
from fedafd.domain.errors import BundleError, DataError, StateUnusableError
from fedafd.domain.kinds import ClientKind, Modality, in_order
from fedafd.domain.seeds import derive_seed
from fedafd.domain.state_cases import AFRESH, Difference
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.acceleration import accelerate, encode_in
from fedafd.learning.adaptation import (
    FUSIONS,
    adapt,
    bound_by_name,
    chosen_encoders,
    fingerprint_of_round,
    unknown_words,
)
from fedafd.learning.alone import alone, has_alone_branch
from fedafd.learning.beside import beside
from fedafd.learning.branches import ONLY_FUSED, Weights, weights_from_json
from fedafd.learning.checkpoint import Checkpoint, InPlace
from fedafd.learning.client_data import SplitName, Splits, check_samples
from fedafd.learning.client_model import Gates, Views, make_client_model
from fedafd.learning.fedavg import group_of, load_average
from fedafd.learning.feeding import gathered
from fedafd.learning.lora import merged_files
from fedafd.learning.optimizers import choose_device, make_optimizer
from fedafd.learning.private_steps import IS_PRIVATE, PrivateTraining, need_private_model, need_private_state
from fedafd.learning.public import Pairs, PairTensors
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.step_batches import PrivateBatch
from fedafd.learning.tasks import find_task
from fedafd.learning.tokens import tokenizer_for
from fedafd.learning.trainable import trainable_parameters
from fedafd.learning.waypoints import NOWHERE, Waypoints, encode_kept

__all__ = ["LocalSite", "Sent", "SplitName"]

_ALONE, _BRANCHES = "alone", "branches"
"""Where a state holds the branch that is trained alone, and the weights of all branches."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What the server sends a client for a round."""

    representations: Mapping[Modality, NDArray[np.float32]]
    """Global ones of the public set, [N, D]."""
    bundles: Mapping[Modality, bytes]
    """The global encoders, packed."""
    public: Pairs | None
    """None for a client that is evaluated, but not trained further."""
    average_of: Callable[[str], bytes | None] | None = None
    """Averaged weights of a group of equal models by its name, for strategies that average; None where it has none."""


class LocalSite:
    """A client's model with all that its local training and evaluation need, ready for both.

    `encoders`: the site's own; None, with a state only, to take the state's. `sent`: None for a client that trains
    alone, with no public set and no global feature. `tokenizer`: of a client that starts afresh, as JSON; None: made
    from the texts that it has. `fingerprint`: what the site knows of what it trains for, beside what follows from the
    other arguments. `private`: how it trains by DP-SGD; the branch that trains alone does not. Raises
    ConfigurationError, DataError, and StateUnusableError for a state that was made for something else.
    """

    def __init__(
        self,
        config: FederationConfig,
        kind: ClientKind,
        encoders: Mapping[Modality, EncoderConfig | None] | None,
        data: ClientData,
        state: bytes | Checkpoint | None,
        seed: int,
        device: str,
        *,
        sent: Sent | None,
        tokenizer: str | None = None,
        fingerprint: StateFingerprint | None = None,
        private: PrivateTraining | None = None,
    ) -> None:
        self.config, self.kind, self.seed, self.private = config, kind, seed, private
        self.training = config.client.for_kind(kind)
        self.device = choose_device(device)
        self.generator = torch.Generator().manual_seed(seed if private is None else private.seed("draws"))
        self.public: PairTensors | None = None
        self.global_reps: dict[Modality, Tensor] = {}
        self.is_new = state is None
        self.differences: list[Difference] = []
        """What the state was made for that is another today."""
        today = fingerprint_of_round(config, kind, encoders, data.labels)
        self._fingerprint = today if fingerprint is None else today.over(fingerprint)
        self._encoder_configs, self._given_fingerprint = encoders, fingerprint
        self._checkpoint: Checkpoint | None = None
        if state is not None:
            with _unusable_is_clear():
                self._checkpoint = state if isinstance(state, Checkpoint) else Checkpoint.from_bytes(state)
            if private is not None:
                need_private_state(self._checkpoint.meta)
            self._note_unknown_words(self._checkpoint.meta.get("tokenizer"), data)
            self.differences = adapt(self._checkpoint, self._fingerprint, self._first_seed())
            self._fingerprint = self._fingerprint.over(StateFingerprint.of_state(self._checkpoint.meta))
            data = bound_by_name(data, self._checkpoint.meta["labels"])
        self.data = data
        self.task: Any = find_task(self._fingerprint.task or usual_task(kind), kind)
        """What is learned: a LabelTask, or a PairTask for pairs."""
        check_samples(data, self.task)
        self.stage = f"client training, {kind.value}"
        """What this training is called where it goes wrong."""
        self.beside: LocalSite | None = None
        """The branch that trains alone, as a site of its own; None for a client without one."""
        self.weights: Weights = ONLY_FUSED
        """Of the branches of a classifier's personalized model."""
        self._frozen: dict[Modality, SampleEncoder] = {}
        self._global_features: dict[SplitName, dict[Modality, Tensor]] = {}
        average = self._average(sent)
        public = None if sent is None else sent.public
        self._build([] if public is None else [text for captions in public.captions for text in captions], tokenizer)
        if private is not None:
            need_private_model(self)
        if average is not None:
            load_average(self.model, average, self.data.labels)
        if sent is not None:
            self._take(sent)

    def _average(self, sent: Sent | None) -> bytes | None:
        """Of the group that the state belongs to now that it is adapted; a site without a state is in none."""
        if self._checkpoint is None or sent is None or sent.average_of is None:
            return None
        return sent.average_of(group_of(self._checkpoint))

    def _take(self, sent: Sent) -> None:
        by_modality = in_order(sent.representations)
        reps = {m: torch.from_numpy(np.asarray(rows, dtype=np.float32)) for m, rows in by_modality.items()}
        means = {m: public_mean(rows) if self.config.alignment.centre else torch.zeros(1) for m, rows in reps.items()}
        self.model.set_means({m: mean.to(self.device) for m, mean in means.items()})
        self.global_reps = {m: self.model.centred(m, rows.to(self.device)) for m, rows in reps.items()}
        self.public = PairTensors(sent.public, self.encoders) if sent.public is not None else None
        if self.public is not None:
            self.public.keep_on(self.device)
        with blaming(BundleError):
            self._frozen = {
                m: SampleEncoder.from_files(merged_files(unpack_folder(sent.bundles[m]))).to(self.device)
                for m in self.kind.modalities
            }
        encode_in(self._frozen.values(), self.config.client.encode_autocast, self.device)
        self._stand_beside()

    def task_loss(self, batch: PrivateBatch) -> Tensor:
        """The task's loss on training samples; a constant where nothing of the client can learn."""
        if self.model.mode is FusionMode.GLOBAL:
            if self.model.head is None:
                return torch.zeros((), device=self.device)
            views = {m: Views(row, row, row) for m, row in batch.frozen.items()}
        else:
            views = {m: self.model.views(m, t(batch.rows[m]), batch.frozen[m]) for m, t in self.encoders.items()}
        return self.model.task_loss(views, batch.labels, self.config)

    def represent(self, waypoints: Waypoints = NOWHERE) -> dict[Modality, NDArray[np.float32]]:
        """The client's representations of the public set, [N, D] by modality: its own encoders, no fusion."""
        assert self.public is not None
        public = {m: self.public.fixed(m) for m in self.encoders}
        return {m: encode_kept(t, public[m], self.device, waypoints, m.value) for m, t in self.encoders.items()}

    @property
    def gates(self) -> Gates:
        """The gates of the fusions, moved together."""
        return Gates(self.model.fusions.values())

    def state(self) -> bytes:
        """The personalized state that the next round goes on from."""
        return self._kept(InPlace).to_bytes()

    def saving(self) -> Callable[[], bytes]:
        """What gives `state`, which nothing changes meanwhile; off the CPU a thread makes it beside what follows."""
        return self.state if self.device.type == "cpu" else beside(self._kept(Checkpoint).to_bytes)

    def _kept(self, as_: type[Checkpoint]) -> Checkpoint:
        assert self._checkpoint is not None
        # As the encoders say of themselves: no later round needs the pretrained weights again.
        encoders = {m.value: encoder.config.model_dump(mode="json") for m, encoder in self.encoders.items()}
        earlier = {
            name: value for name, value in self._checkpoint.meta.items() if name not in (_ALONE, _BRANCHES, IS_PRIVATE)
        }
        kept = as_(meta=earlier | {"encoders": encoders} | ({} if self.private is None else {IS_PRIVATE: True}))
        kept.add_module("model", self.model)
        for name, optimizer in self.optimizers.items():
            if name != "fusion" or self.config.fusion.persistent:
                kept.add_optimizer(name, optimizer)
        if self.beside is not None:
            kept.add_nested(_ALONE, self.beside._kept(as_))
            kept.meta[_BRANCHES] = dict(self.weights)
        return kept

    def _stand_beside(self) -> None:
        """The branch that trains alone, as it was left or new."""
        assert self._checkpoint is not None
        if not has_alone_branch(self.config, self.kind):
            return
        saved = self._checkpoint.nested(_ALONE)
        if saved is None and self.public is None:
            return  # evaluated only, and its state is of a time without such a branch
        if saved is not None:
            with _unusable_is_clear():
                self.weights = _weights(self._checkpoint)
        # The words of the federated model, as a site's own baseline has them; but never the public set's alone.
        words = None if self.config.client.vocabulary == "public" else self._checkpoint.meta["tokenizer"]
        self.beside = LocalSite(
            alone(self.config),
            self.kind,
            self._encoder_configs,
            self.data,
            saved,
            self.seed,
            self.device.type if self.device.index is None else str(self.device),
            sent=None,
            tokenizer=words,
            fingerprint=self._given_fingerprint,
        )
        self.beside.stage = f"client training alone, {self.kind.value}"
        if self.kind is ClientKind.IMAGE and self.encoders[Modality.IMAGE].config.trainable != "head":
            self.beside.splits = self.splits  # both encoders read the same pixels

    def _build(self, public_texts: list[str], tokenizer: str | None) -> None:
        if self._checkpoint is None:
            self._checkpoint = Checkpoint(meta=self._fresh_meta(public_texts, tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._first_seed())
            self.model = make_client_model(self.config, self.kind, self._checkpoint, self.task)
        if not self.is_new:
            begins = any(difference.case == "fusion-fresh" for difference in self.differences)
            with _unusable_is_clear():
                self._checkpoint.load_module("model", self.model, fresh=FUSIONS if begins else None)
        # Before the optimizers: they place the moments that they are given where their parameters then are.
        self.model.to(self.device)
        self.optimizers = self._make_optimizers()
        if not self.is_new:
            for name, optimizer in self.optimizers.items():
                self._checkpoint.load_optimizer(name, optimizer)
        self.encoders = self.model.encoders
        client = self.config.client
        accelerate(
            self.encoders.values(),
            device=self.device,
            autocast=client.autocast,
            accumulate=client.accumulate if self.private is None else 1,
            compiled=client.compile and self.private is None,
        )
        encode_in(self.encoders.values(), client.encode_autocast, self.device)
        self.splits = Splits(self.data, self.encoders, self.device)

    def _first_seed(self) -> int:
        # Weights can only be averaged when all started from the same.
        if self.config.averaging is AveragingMode.OFF:
            return self.seed
        return derive_seed(self.config.seed, "averaging", self.kind.value)

    @property
    def words_of_private(self) -> bool:
        """Whether the text encoder's vocabulary is made of private texts, too."""
        if not self.is_new or Modality.TEXT not in self.kind.modalities or self.config.client.vocabulary == "public":
            return False
        return chosen_encoders(self.config, self.kind, self._encoder_configs or {})[Modality.TEXT].pretrained is None

    def _note_unknown_words(self, tokenizer: str | None, data: ClientData) -> None:
        self._fingerprint = self._fingerprint.model_copy(update={"unknown_words": unknown_words(tokenizer, data)})

    def _fresh_meta(self, public_texts: list[str], tokenizer: str | None) -> dict[str, Any]:
        own: list[str] = []
        if self.config.client.vocabulary == "public":
            pass
        elif isinstance(self.data.train, TextSplit):
            own = list(self.data.train.texts)
        elif isinstance(self.data.train, PairSplit):
            own = [text for captions in self.data.train.captions for text in captions]
        chosen = chosen_encoders(self.config, self.kind, self._encoder_configs or {})
        text = chosen.get(Modality.TEXT)
        if text is not None and tokenizer is None:
            tokenizer = tokenizer_for(text, [*public_texts, *own]).to_str()
        encoders = {m.value: encoder.model_dump(mode="json") for m, encoder in chosen.items()}
        self._note_unknown_words(tokenizer, self.data)
        return {
            "encoders": encoders,
            "tokenizer": tokenizer if text is not None else None,
            "labels": list(self.data.labels),
            "fingerprint": self._fingerprint.as_json(),
        }

    def _make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        t, a, may = self.training, self.config.alignment, {"recorded": self.config.client.graph}
        apart = [*self.model.fusions.parameters(), *self.model.alignment.parameters()]
        apart_ids = {id(parameter) for parameter in apart}
        main = [parameter for parameter in trainable_parameters(self.model) if id(parameter) not in apart_ids]
        optimizers = {"main": make_optimizer(t.optimizer, main, t.learning_rate, t.weight_decay, t.momentum, **may)}
        discriminators = self.model.alignment.parameters()
        optimizers["discriminators"] = make_optimizer("adam", discriminators, a.discriminator_learning_rate, 0.0, **may)
        if len(self.model.fusions):
            fusion = self.model.fusions.parameters()
            optimizers["fusion"] = make_optimizer("adam", fusion, t.fusion_learning_rate, t.fusion_weight_decay, **may)
        return optimizers

    def frozen_features(self, name: SplitName, which: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Frozen global features of rows of a split; computed once, as no augmentation reaches them."""
        if not self._frozen:
            return self._no_features(which)
        if name not in self._global_features:
            split: Split = getattr(self.data, name)
            raw = self.splits[name].global_features(split, self._frozen, self.device)
            self._global_features[name] = {m: self.model.centred(m, rows.to(self.device)) for m, rows in raw.items()}
        known = self._global_features[name]
        return {m: gathered(known[m], rows) for m, rows in which.items()}

    def frozen_to_train(self, which: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """The same of training samples for a step; zeros without a fusion, as no loss reads them then."""
        if self.model.mode is FusionMode.OFF:
            return self._no_features(which)
        return self.frozen_features("train", which)

    def _no_features(self, which: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        nothing_1D = torch.zeros(1, self.config.embedding_dim, device=self.device)
        return {m: nothing_1D.expand(len(rows), -1) for m, rows in which.items()}

    @property
    def has_global(self) -> bool:
        """Whether the server sent frozen encoders."""
        return bool(self._frozen)

    def has(self, name: SplitName) -> bool:
        """Whether a split has a sample."""
        return len(getattr(self.data, name)) > 0


def _weights(checkpoint: Checkpoint) -> Weights:
    try:
        return weights_from_json(checkpoint.meta[_BRANCHES])
    except (KeyError, ValueError) as error:
        raise DataError(f"the weights of its branches: {error}") from None


@contextmanager
def _unusable_is_clear() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise StateUnusableError(f"the saved state cannot be used: {error}; {AFRESH}") from None
