"""One client during one call: its personalized model, its splits, its optimizers, and what the server sent.

Shape legend: B a batch, N public samples, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.algorithm.centring import public_mean
from fedafd.algorithm.fusion import calibrate_gate
from fedafd.algorithm.metrics import accuracy_at_k, accuracy_scores, own_accuracy_at_k, rsum, scored_recall_at_k
from fedafd.datasets.samples import ClientData, PairSplit, Split, TextSplit
from fedafd.domain.config import AveragingMode, EncoderConfig, FederationConfig, FusionMode
from fedafd.domain.errors import DataError, StateUnusableError
from fedafd.domain.kinds import ClientKind, Modality, in_order
from fedafd.domain.seeds import derive_seed
from fedafd.domain.state_cases import AFRESH, Difference
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.acceleration import accelerate
from fedafd.learning.adaptation import (
    FUSIONS,
    adapt,
    bound_by_name,
    chosen_encoders,
    fingerprint_of_round,
    unknown_words,
)
from fedafd.learning.averaging import load_average
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_data import SplitName, Splits, check_samples
from fedafd.learning.client_model import ClientModel, Views
from fedafd.learning.encoders import Features
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.feeding import gathered, sent
from fedafd.learning.optimizers import choose_device, make_optimizer
from fedafd.learning.public import Pairs, PairTensors
from fedafd.learning.tokens import tokenizer_for
from fedafd.learning.tower import Tower
from fedafd.learning.waypoints import NOWHERE, Waypoints, encode_kept
from fedafd.rpc.bundles import unpack_folder

__all__ = ["Gates", "LocalSite", "SplitName", "make_client_model"]

_EVALUATE_BATCH = 256


class LocalSite:
    """A client's model with all that its local training and evaluation need.

    `encoders`: the site's own; None, with a state only, to take the state's. `made_for`: what the site knows of what it
    trains for, beside what follows from the other arguments. Raises ConfigurationError, DataError, and
    StateUnusableError for a state that was made for something else.
    """

    def __init__(
        self,
        config: FederationConfig,
        kind: ClientKind,
        encoders: Mapping[Modality, EncoderConfig | None] | None,
        data: ClientData,
        state: bytes | None,
        seed: int,
        device: str,
        *,
        made_for: StateFingerprint | None = None,
    ) -> None:
        self.config, self.kind, self.seed = config, kind, seed
        self.training = config.client.for_kind(kind)
        self.device = choose_device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.public: PairTensors | None = None
        self.global_reps: dict[Modality, Tensor] = {}
        self.is_new = state is None
        self.differences: list[Difference] = []
        """What the state was made for that is another today."""
        check_samples(data)
        today = fingerprint_of_round(config, kind, encoders, data.labels)
        self._made_for = today if made_for is None else today.over(made_for)
        self._encoders = encoders or {}
        self._checkpoint: Checkpoint | None = None
        if state is not None:
            with _unusable_is_clear():
                self._checkpoint = Checkpoint.from_bytes(state)
            self._note_unknown_words(self._checkpoint.meta.get("tokenizer"), data)
            self.differences = adapt(self._checkpoint, self._made_for, self._first_seed())
            data = bound_by_name(data, self._checkpoint.meta["labels"])
        self.data = data
        self._frozen: dict[Modality, Tower] = {}
        self._global_features: dict[SplitName, dict[Modality, Tensor]] = {}

    def meet(
        self,
        public: Pairs | None,
        global_reps: Mapping[Modality, NDArray[np.float32]],
        bundles: Mapping[Modality, bytes],
        average: bytes | None,
    ) -> None:
        """Take what the server sent. Without `public` the client can be evaluated, but not trained further."""
        self._build([] if public is None else [text for captions in public.captions for text in captions])
        if average is not None:
            load_average(self.model, average, self.data.labels)
        reps = {m: torch.from_numpy(np.asarray(rows, dtype=np.float32)) for m, rows in in_order(global_reps).items()}
        means = {m: public_mean(rows) if self.config.alignment.centre else torch.zeros(1) for m, rows in reps.items()}
        self.model.set_means({m: mean.to(self.device) for m, mean in means.items()})
        self.global_reps = {m: self.model.centred(m, rows.to(self.device)) for m, rows in reps.items()}
        self.public = PairTensors(public, self.towers) if public is not None else None
        if self.public is not None:
            self.public.keep_on(self.device)
        self._frozen = {m: Tower.from_files(unpack_folder(bundles[m])).to(self.device) for m in self.kind.modalities}

    def meet_nobody(self, *, tokenizer: str | None = None) -> None:
        """Train alone: no public set, no global feature.

        `tokenizer`: of a client that starts afresh, as JSON; None: made from its own texts.
        """
        self._build([], tokenizer)

    def task_loss(self, indices: Tensor) -> Tensor:
        """The task's loss on the training samples `indices`; a constant where nothing of the client can learn."""
        split = self.splits["train"]
        rows, which = split.batch(indices, self.generator, augment=self.config.client.augment)
        frozen = self._held("train", which)
        if self.model.mode is FusionMode.GLOBAL:
            if self.model.head is None:
                return torch.zeros((), device=self.device)
            views = {m: Views(row, row, row) for m, row in frozen.items()}
        else:
            views = {m: self.model.views(m, t(sent(rows[m], self.device)), frozen[m]) for m, t in self.towers.items()}
        labels = sent(split.labels[indices], self.device) if split.labels is not None else None
        return self.model.task_loss(views, labels, self.config)

    def represent(self, waypoints: Waypoints = NOWHERE) -> dict[Modality, NDArray[np.float32]]:
        """The client's representations of the public set, [N, D] by modality: its own encoders, no fusion."""
        assert self.public is not None
        public = {m: self.public.fixed(m) for m in self.towers}
        return {m: encode_kept(t, public[m], self.device, waypoints, m.value) for m, t in self.towers.items()}

    @property
    def gates(self) -> Gates:
        """The gates of the fusions, moved together."""
        return Gates(self.model.fusions.values())

    @torch.inference_mode()
    def calibrate(self) -> None:
        """Choose the gate's offset on the validation split; without one the gate stays as trained."""
        if not self.config.fusion.calibrate_gate or not self.model.fusions or not self._has("val"):
            return
        self.model.eval()
        local = {m: list(self._local_batches("val", m)) for m in self.splits["val"].rows}

        def score() -> Tensor:
            fused = {m: torch.cat([v.fused for v in self._viewed("val", m, batches)]) for m, batches in local.items()}
            return self._score("val", fused)[1]

        calibrate_gate(self.gates, score)  # type: ignore[arg-type]

    def assess_views(self, name: SplitName) -> dict[str, Evaluation]:
        """A split with the fused (`federated`), the own (`local`) and the frozen (`global`) feature, each by itself.

        None for an empty split.
        """
        scored = {view: self._score(name, each) for view, each in self._features(name).items()}
        return {view: Evaluation(found, scores.numpy()) for view, (found, scores) in scored.items()}

    def assess(self, name: SplitName) -> Evaluation:
        """`assess_views` in one level, with the offset of each gate; the scores are the fused feature's."""
        return self.in_one_level(self.assess_views(name))

    def in_one_level(self, views: Mapping[str, Evaluation]) -> Evaluation:
        """What `assess` makes of `assess_views`."""
        found = {f"{view}/{metric}": value for view, each in views.items() for metric, value in each.metrics.items()}
        for modality, fusion in self.model.fusions.items():
            offset = float(fusion.gate_offset)  # type: ignore[arg-type]
            found[f"gate_offset/{modality}"] = max(min(offset, 1e6), -1e6)
        return Evaluation(found, views["federated"].scores if views else np.empty(0))

    def state(self) -> bytes:
        """The personalized state that the next round goes on from."""
        assert self._checkpoint is not None
        # As the towers say of themselves: no later round needs the pretrained weights again.
        encoders = {m.value: tower.config.model_dump(mode="json") for m, tower in self.towers.items()}
        kept = Checkpoint(meta=self._checkpoint.meta | {"encoders": encoders})
        kept.add_module("model", self.model)
        for name, optimizer in self.optimizers.items():
            if name != "fusion" or self.config.fusion.persistent:
                kept.add_optimizer(name, optimizer)
        return kept.to_bytes()

    def _build(self, public_texts: list[str], tokenizer: str | None = None) -> None:
        if self._checkpoint is None:
            self._checkpoint = Checkpoint(meta=self._fresh_meta(public_texts, tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._first_seed())
            self.model = make_client_model(self.config, self.kind, self._checkpoint)
        if not self.is_new:
            begins = any(each.case == "fusion-fresh" for each in self.differences)
            with _unusable_is_clear():
                self._checkpoint.load_module("model", self.model, fresh=FUSIONS if begins else None)
        # Before the optimizers: they place the moments that they are given where their parameters then are.
        self.model.to(self.device)
        self.optimizers = self._make_optimizers()
        if not self.is_new:
            for name, optimizer in self.optimizers.items():
                self._checkpoint.load_optimizer(name, optimizer)
        self.towers: dict[Modality, Tower] = {m: self.model.towers[m.value] for m in self.kind.modalities}  # type: ignore[misc]
        client = self.config.client
        accelerate(
            self.towers.values(),
            device=self.device,
            autocast=client.autocast,
            accumulate=client.accumulate,
            compiled=client.compile,
        )
        self.splits = Splits(self.data, self.towers, self.device)

    def _first_seed(self) -> int:
        # Weights can only be averaged when all started from the same.
        if self.config.averaging is AveragingMode.OFF:
            return self.seed
        return derive_seed(self.config.seed, "averaging", self.kind.value)

    def _note_unknown_words(self, tokenizer: str | None, data: ClientData) -> None:
        self._made_for = self._made_for.model_copy(update={"unknown_words": unknown_words(tokenizer, data)})

    def _fresh_meta(self, public_texts: list[str], tokenizer: str | None) -> dict[str, Any]:
        own: list[str] = []
        if self.config.client.vocabulary == "public":
            pass
        elif isinstance(self.data.train, TextSplit):
            own = list(self.data.train.texts)
        elif isinstance(self.data.train, PairSplit):
            own = [text for captions in self.data.train.captions for text in captions]
        chosen = chosen_encoders(self.config, self.kind, self._encoders)
        text = chosen.get(Modality.TEXT)
        if text is not None and tokenizer is None:
            tokenizer = tokenizer_for(text, [*public_texts, *own]).to_str()
        encoders = {m.value: encoder.model_dump(mode="json") for m, encoder in chosen.items()}
        self._note_unknown_words(tokenizer, self.data)
        made_for = self._made_for.as_json()
        return {
            "encoders": encoders,
            "tokenizer": tokenizer if text is not None else None,
            "labels": list(self.data.labels),
            "fingerprint": made_for,
        }

    def _make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        t, a = self.training, self.config.alignment
        apart = [*self.model.fusions.parameters(), *self.model.alignment.parameters()]
        held = {id(parameter) for parameter in apart}
        main = [parameter for parameter in self.model.parameters() if id(parameter) not in held]
        made = {"main": make_optimizer(t.optimizer, main, t.learning_rate, t.weight_decay, t.momentum)}
        discriminators = self.model.alignment.parameters()
        made["discriminators"] = make_optimizer("adam", discriminators, a.discriminator_learning_rate, 0.0)
        if len(self.model.fusions):
            fusion = self.model.fusions.parameters()
            made["fusion"] = make_optimizer("adam", fusion, t.fusion_learning_rate, t.fusion_weight_decay)
        return made

    def _held(self, name: SplitName, which: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Frozen global features of rows of a split; computed once, as no augmentation reaches them."""
        if name not in self._global_features:
            split: Split = getattr(self.data, name)
            if self._frozen:
                raw = self.splits[name].global_features(split, self._frozen, self.device)
                made = {m: self.model.centred(m, rows.to(self.device)) for m, rows in raw.items()}
            else:
                dim = self.config.embedding_dim
                made = {m: torch.zeros(1, dim, device=self.device) for m in self.splits[name].rows}
            self._global_features[name] = made
        held = self._global_features[name]
        if not self._frozen:
            return {m: held[m].expand(len(rows), -1) for m, rows in which.items()}
        return {m: gathered(held[m], rows) for m, rows in which.items()}

    def _has(self, name: SplitName) -> bool:
        return len(getattr(self.data, name)) > 0

    def _local_batches(self, name: SplitName, modality: Modality) -> Any:
        rows = self.splits[name].rows[modality]
        for start in range(0, len(rows), _EVALUATE_BATCH):
            made: Features = self.towers[modality](rows[start : start + _EVALUATE_BATCH].to(self.device))
            # Tokens are only kept where the fusion reads them: a split of them is large.
            keep = self.model.mode is FusionMode.TOKENS
            yield made if keep else made._replace(tokens_BPD=made.vector_BD, weights_BP=made.vector_BD)

    def _viewed(self, name: SplitName, modality: Modality, batches: Any) -> Any:
        start = 0
        for local in batches:
            which = torch.arange(start, start + len(local.vector_BD))
            frozen = self._held(name, {modality: which})[modality]
            viewed = self.model.views(modality, local, frozen)
            yield Views(*(each.cpu() for each in viewed))
            start += len(which)

    @torch.inference_mode()
    def _features(self, name: SplitName) -> dict[str, dict[Modality, Tensor]]:
        """A split's features by view and modality; none of an empty split."""
        self.model.eval()
        if not self._has(name):
            return {}
        made: dict[Modality, Views] = {}
        for modality in self.splits[name].rows:
            parts = list(self._viewed(name, modality, self._local_batches(name, modality)))
            made[modality] = Views(*(torch.cat([part[which] for part in parts]) for which in range(3)))
        told = {"federated": 0, "local": 1} | ({"global": 2} if self._frozen else {})
        return {view: {m: views[which] for m, views in made.items()} for view, which in told.items()}

    @torch.inference_mode()
    def _score(self, name: SplitName, features: Mapping[Modality, Tensor]) -> tuple[dict[str, float], Tensor]:
        """Metrics, and each sample's part of the task's own one."""
        split = self.splits[name]
        if self.model.head is not None:
            assert split.labels is not None
            (rows,) = features.values()
            logits = self.model.head(rows.to(self.device)).cpu()
            ks = (1, 5) if logits.shape[1] >= 5 else (1,)
            found = accuracy_at_k(logits, split.labels, ks=ks)
            own = torch.bincount(self.splits["train"].labels, minlength=logits.shape[1])  # type: ignore[arg-type]
            found |= {f"own_{k}": v for k, v in own_accuracy_at_k(logits, split.labels, own, ks=(1,)).items()}
            return found, accuracy_scores(logits, split.labels)
        assert split.pairs is not None
        image, text = (nn.functional.normalize(features[m], dim=-1) for m in Modality)
        found, scores = scored_recall_at_k(image, text, split.pairs.image_of_text)
        return found | {"rsum": rsum(found)}, scores


@contextmanager
def _unusable_is_clear() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise StateUnusableError(f"the saved state cannot be used: {error}; {AFRESH}") from None


class Gates:
    """The gates of a client's fusions, if it has any, moved together."""

    def __init__(self, fusions: Iterable[Any]) -> None:
        self._fusions = list(fusions)

    def set_gate_offset(self, offset: float) -> None:
        """Move every gate."""
        for fusion in self._fusions:
            fusion.set_gate_offset(offset)


def make_client_model(config: FederationConfig, kind: ClientKind, checkpoint: Checkpoint) -> ClientModel:
    """A model with the encoders, vocabulary and labels of `checkpoint`; its weights are fresh."""
    text = checkpoint.meta["tokenizer"]
    tokenizer = Tokenizer.from_str(text) if text is not None else None
    towers = {}
    for modality in kind.modalities:
        encoder = EncoderConfig.model_validate(checkpoint.meta["encoders"][modality.value])
        held = tokenizer if modality is Modality.TEXT else None
        towers[modality] = Tower(encoder, modality, dim=config.embedding_dim, tokenizer=held)
    return ClientModel(config, kind, towers, len(checkpoint.meta["labels"]))
