"""A client's part of a round: local epochs of alignment (BAA) on the public set and fusion (GFF) with the task on
private data, then representations of the public set.

Shape legend: N public samples, B a batch, D embedding dimension. Everything depends on the arguments alone.
Source: FedAFD, arXiv 2603.04890; choices beside the paper are FederationConfig's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.algorithm.alignment import backward_balanced, pairing_loss
from fedafd.algorithm.centring import public_mean
from fedafd.algorithm.fusion import calibrate_gate
from fedafd.algorithm.metrics import accuracy_at_k, recall_at_k, rsum
from fedafd.datasets.samples import ClientData, PairSplit, TextSplit
from fedafd.domain.config import AlignmentMode, EncoderConfig, FederationConfig, FusionMode
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_data import SplitTensors
from fedafd.learning.client_model import ClientModel, Views
from fedafd.learning.optimizers import check_loss, choose_device, make_optimizer, steps_factor
from fedafd.learning.public import Pairs, PairTensors
from fedafd.learning.tokens import build_tokenizer
from fedafd.learning.tower import Tower, encode_all
from fedafd.rpc.bundles import unpack_folder

__all__ = ["ClientRound", "export_personalized_model", "train_alone", "train_client"]

Progress = Callable[[float, str], None]
_EVALUATE_BATCH = 256


@dataclass(frozen=True)
class ClientRound:
    """What a participation makes."""

    state: bytes
    representations: dict[Modality, NDArray[np.float32]]
    metrics: dict[str, float]
    num_private_samples: int


def train_client(
    *,
    config: FederationConfig,
    kind: ClientKind,
    image_encoder: EncoderConfig | None,
    text_encoder: EncoderConfig | None,
    data: ClientData,
    public: Pairs,
    global_representations: Mapping[Modality, NDArray[np.float32]],
    bundles: Mapping[Modality, bytes],
    state: bytes | None,
    round_number: int,
    seed: int,
    device: str = "auto",
    progress: Progress = lambda _, __: None,
) -> ClientRound:
    """Do the client's part of a round. `state` is its personalized state, None before its first round.

    Metrics, in percent, on the client's own test split: `federated/...` of the personalized model, `global/...` of the
    frozen global feature alone, `local/...` of the client's own feature. Raises DivergedError, ConfigurationError.
    """
    site = _Site(config, kind, {Modality.IMAGE: image_encoder, Modality.TEXT: text_encoder}, data, state, seed, device)
    progress(0.01, "reading data")
    site.meet(public, global_representations, bundles)
    site.train(round_number, lambda f, a: progress(0.05 + 0.8 * f, a))
    progress(0.87, "calibrating the gate")
    site.calibrate()
    progress(0.9, "representing the public set")
    reps = site.represent()
    progress(0.95, "evaluating")
    return ClientRound(site.state(), reps, site.metrics(), len(data.train))


def train_alone(
    *,
    config: FederationConfig,
    kind: ClientKind,
    image_encoder: EncoderConfig | None,
    text_encoder: EncoderConfig | None,
    data: ClientData,
    rounds: int,
    seed: int,
    device: str = "auto",
    progress: Progress = lambda _, __: None,
) -> dict[str, float]:
    """The same client without federation: same encoders, epochs, batches and optimizers. Metrics `alone/...`."""
    off = config.model_copy(
        update={
            "fusion": config.fusion.model_copy(update={"mode": FusionMode.OFF}),
            "alignment": config.alignment.model_copy(update={"mode": AlignmentMode.OFF}),
        }
    )
    off = FederationConfig.model_validate_json(off.canonical_json())
    site = _Site(off, kind, {Modality.IMAGE: image_encoder, Modality.TEXT: text_encoder}, data, None, seed, device)
    site.meet_nobody()
    for number in range(1, rounds + 1):
        site.train(number, lambda f, a, n=number: progress((n - 1 + f) / rounds, a))  # type: ignore[misc]
    return {f"alone/{name}": value for name, value in site.evaluate(site.test, 1).items()}


def export_personalized_model(
    *,
    config: FederationConfig,
    kind: ClientKind,
    state: bytes,
    bundles: Mapping[Modality, bytes],
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
) -> dict[str, bytes]:
    """The personalized model's folder, complete: local and frozen global encoders, fusion, head, labels, model card."""
    checkpoint = Checkpoint.from_bytes(state)
    model = _model(config, kind, checkpoint)
    checkpoint.load_module("model", model)
    files: dict[str, bytes] = {}
    for modality in kind.modalities:
        files |= model.towers[modality.value].to_files(f"local/{modality.value}/")  # type: ignore[operator]
        files |= {f"global/{modality.value}/{path}": c for path, c in unpack_folder(bundles[modality]).items()}
    rest = {k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith(("towers.", "alignment."))}
    files["model.safetensors"] = save(dict(sorted(rest.items())))
    described = {
        "model_type": "fedafd-personalized",
        "kind": kind.value,
        "labels": checkpoint.meta["labels"],
        "federation": json.loads(config.canonical_json()),
        "lineage": dict(lineage),
    }
    files["config.json"] = json.dumps(described, indent=2, sort_keys=True).encode()
    rows = "\n".join(f"| {name} | {value:.2f} |" for name, value in sorted(metrics.items()))
    card = f"# Personalized {kind.value} model of federation {config.name}\n\n| metric | value |\n|---|---|\n{rows}\n"
    files["README.md"] = card.encode()
    return files


class _Site:
    """One client's model, data and optimizers during one call."""

    def __init__(
        self,
        config: FederationConfig,
        kind: ClientKind,
        encoders: Mapping[Modality, EncoderConfig | None],
        data: ClientData,
        state: bytes | None,
        seed: int,
        device: str,
    ) -> None:
        self.config, self.kind, self.data, self.seed = config, kind, data, seed
        self.training = config.client.for_kind(kind)
        self.device = choose_device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.public: PairTensors | None = None
        self._encoders = encoders
        self._checkpoint = Checkpoint.from_bytes(state) if state is not None else None

    def meet(
        self, public: Pairs, global_reps: Mapping[Modality, NDArray[np.float32]], bundles: Mapping[Modality, bytes]
    ) -> None:
        self._build([text for captions in public.captions for text in captions])
        reps = {m: torch.from_numpy(np.asarray(rows, dtype=np.float32)) for m, rows in global_reps.items()}
        if self.config.alignment.centre:
            self.model.set_means({m: public_mean(rows).to(self.device) for m, rows in reps.items()})
        self.global_reps = {m: self.model.centred(m, rows.to(self.device)) for m, rows in reps.items()}
        self.public = PairTensors(public, self.towers)
        frozen = {m: Tower.from_files(unpack_folder(bundles[m])).to(self.device) for m in self.kind.modalities}
        splits = ((self.train_split, self.data.train), (self.val, self.data.val), (self.test, self.data.test))
        for tensors, split in splits:
            raw = SplitTensors.global_features(split, frozen, self.device)
            self.global_features[id(tensors)] = {m: self.model.centred(m, r.to(self.device)) for m, r in raw.items()}

    def meet_nobody(self) -> None:
        self._build([])
        for tensors in (self.train_split, self.val, self.test):
            dim = self.config.embedding_dim
            self.global_features[id(tensors)] = {m: torch.zeros(len(r), dim) for m, r in tensors.rows.items()}
        self.public, self.global_reps = None, {}

    def _build(self, public_texts: list[str]) -> None:
        if self._checkpoint is None:
            self._checkpoint = Checkpoint(meta=self._fresh_meta(public_texts))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.model = _model(self.config, self.kind, self._checkpoint)
            self.optimizers = self._make_optimizers()
        else:
            self.model = _model(self.config, self.kind, self._checkpoint)
            self._checkpoint.load_module("model", self.model)
            self.optimizers = self._make_optimizers()
            for name, optimizer in self.optimizers.items():
                self._checkpoint.load_optimizer(name, optimizer)
        self.model.to(self.device)
        self.towers: dict[Modality, Tower] = {m: self.model.towers[m.value] for m in self.kind.modalities}  # type: ignore[misc]
        self.train_split, self.val, self.test = (
            SplitTensors(split, self.towers) for split in (self.data.train, self.data.val, self.data.test)
        )
        self.global_features: dict[int, dict[Modality, Tensor]] = {}

    def _fresh_meta(self, public_texts: list[str]) -> dict[str, Any]:
        own: list[str] = []
        if isinstance(self.data.train, TextSplit):
            own = list(self.data.train.texts)
        elif isinstance(self.data.train, PairSplit):
            own = [text for captions in self.data.train.captions for text in captions]
        defaults = {Modality.IMAGE: self.config.image_encoder, Modality.TEXT: self.config.text_encoder}
        chosen = {m.value: (self._encoders[m] or defaults[m]).model_dump(mode="json") for m in self.kind.modalities}
        has_text = Modality.TEXT in self.kind.modalities
        tokenizer = build_tokenizer([*public_texts, *own]).to_str() if has_text else None
        return {"encoders": chosen, "tokenizer": tokenizer, "labels": list(self.data.labels)}

    def _make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        t, a = self.training, self.config.alignment
        apart = [*self.model.fusions.parameters(), *self.model.alignment.parameters()]
        held = {id(parameter) for parameter in apart}
        main = [parameter for parameter in self.model.parameters() if id(parameter) not in held]
        made = {"main": make_optimizer(t.optimizer, main, t.learning_rate, t.weight_decay, t.momentum)}
        made["discriminators"] = torch.optim.Adam(self.model.alignment.parameters(), lr=a.discriminator_learning_rate)
        if len(self.model.fusions):
            fusion = self.model.fusions.parameters()
            made["fusion"] = make_optimizer("adam", fusion, t.fusion_learning_rate, t.fusion_weight_decay)
        return made

    def train(self, round_number: int, progress: Progress) -> None:
        factor = (
            steps_factor(round_number, self.config.server.schedule_rounds) if self.training.schedule == "steps" else 1.0
        )
        for group in self.optimizers["main"].param_groups:
            group["lr"] = self.training.learning_rate * factor
        epochs = self.config.client.local_epochs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + round_number)
            self.model.train()
            for epoch in range(epochs):
                self._epoch(epoch, epochs, progress)
            self.model.eval()

    def _epoch(self, epoch: int, epochs: int, progress: Progress) -> None:
        activity = f"local epoch {epoch + 1} of {epochs}"
        alignment = self.config.alignment
        aligns = self.public is not None and alignment.mode is not AlignmentMode.OFF
        if aligns and alignment.schedule == "separate":
            for rows in self._public_batches(None):
                progress(epoch / epochs, activity)
                self._step(None, rows)
        size = min(self.training.batch_size, self.train_split.count)
        steps = max(1, self.train_split.count // size)
        order = torch.randperm(self.train_split.count, generator=self.generator)
        joint = aligns and alignment.schedule == "joint"
        public = self._public_batches(steps) if joint else iter([None] * steps)
        for step in range(steps):
            progress((epoch + step / steps) / epochs, activity)
            self._step(order[step * size : (step + 1) * size], next(public))

    def _public_batches(self, steps: int | None) -> Iterator[Tensor | None]:
        assert self.public is not None
        limit = self.config.client.public_samples_per_epoch or self.public.count
        size = min(self.training.batch_size, limit)
        per_pass = max(1, limit // size)
        for step in range(per_pass if steps is None else steps):
            if step % per_pass == 0:
                order = torch.randperm(self.public.count, generator=self.generator)
            place = step % per_pass * size
            yield order[place : place + size]

    def _step(self, private: Tensor | None, public: Tensor | None) -> None:
        loss = torch.zeros((), device=self.device)
        if private is not None:
            rows, which = self.train_split.batch(private, self.generator, augment=self.config.client.augment)
            views = self._views(self.train_split, rows, which)
            labels = self.train_split.labels
            chosen = labels[private].to(self.device) if labels is not None else None
            loss = loss + self.model.task_loss(views, chosen, self.config)
        self.optimizers["main"].zero_grad(set_to_none=True)
        for name in self.optimizers:
            self.optimizers[name].zero_grad(set_to_none=True)
        adversarial = None
        if public is not None:
            loss, adversarial = self._align(public, loss)
        check_loss(loss, f"client training, {self.kind.value}")
        if adversarial is None:
            if loss.requires_grad:
                torch.autograd.backward(loss)
        elif not loss.requires_grad:
            torch.autograd.backward(adversarial)
        else:
            encoders = [p for tower in self.towers.values() for p in tower.parameters()]
            backward_balanced(loss, adversarial, encoders, max_share=self.config.alignment.max_gradient_share)
        nn.utils.clip_grad_norm_(
            [p for n, p in self.model.named_parameters() if not n.startswith("alignment.")],
            self.config.client.clip_norm,
        )
        self.optimizers["main"].step()
        if "fusion" in self.optimizers:
            self.optimizers["fusion"].step()

    def _align(self, rows: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        assert self.public is not None
        with _untouched_statistics(self.model):
            features = {
                m: tower(self.public.drawn(m, rows, self.generator).to(self.device)).vector_BD
                for m, tower in self.towers.items()
            }
        targets = {m: reps[rows.to(self.device)] for m, reps in self.global_reps.items()}
        discriminators = self.optimizers["discriminators"]
        fakes = {m: f.detach() for m, f in features.items()}
        torch.autograd.backward(self.model.alignment.discriminator_loss(fakes, targets))
        discriminators.step()
        discriminators.zero_grad(set_to_none=True)
        alignment = self.config.alignment
        if alignment.mode is AlignmentMode.ADVERSARIAL_PAIRING:
            term = pairing_loss(features, targets, temperature=alignment.pairing_temperature)
            loss = loss + alignment.pairing_weight * term
        return loss, self.model.alignment.encoder_loss(features)

    def _views(
        self, tensors: SplitTensors, rows: Mapping[Modality, Tensor], which: Mapping[Modality, Tensor]
    ) -> dict[Modality, Views]:
        held = self.global_features[id(tensors)]
        return {
            m: self.model.views(m, tower(rows[m].to(self.device)), held[m][which[m].to(held[m].device)].to(self.device))
            for m, tower in self.towers.items()
        }

    def calibrate(self) -> None:
        """Choose the gate's offset on the validation split."""
        if not self.config.fusion.calibrate_gate or not len(self.model.fusions):
            return
        gates = _Gates(list(self.model.fusions.values()))
        calibrate_gate(gates, lambda: self._score(self.evaluate(self.val, 0)))  # type: ignore[arg-type]

    def represent(self) -> dict[Modality, NDArray[np.float32]]:
        assert self.public is not None
        return {m: encode_all(tower, self.public.fixed(m), self.device) for m, tower in self.towers.items()}

    @torch.inference_mode()
    def evaluate(self, tensors: SplitTensors, which: int) -> dict[str, float]:
        """Metrics on a split of the fused (0), local (1) or global (2) feature."""
        self.model.eval()
        features: dict[Modality, Tensor] = {}
        for modality, rows in tensors.rows.items():
            parts = []
            for start in range(0, len(rows), _EVALUATE_BATCH):
                local = self.towers[modality](rows[start : start + _EVALUATE_BATCH].to(self.device))
                held = self.global_features[id(tensors)][modality][start : start + _EVALUATE_BATCH].to(self.device)
                parts.append(self.model.views(modality, local, held)[which].cpu())
            features[modality] = torch.cat(parts)
        if self.model.head is not None:
            assert tensors.labels is not None
            (rows,) = features.values()
            logits = self.model.head(rows.to(self.device)).cpu()
            return accuracy_at_k(logits, tensors.labels, ks=(1, 5) if logits.shape[1] >= 5 else (1,))
        assert tensors.pairs is not None
        image, text = (nn.functional.normalize(features[m], dim=-1) for m in Modality)
        metrics = recall_at_k(image, text, tensors.pairs.image_of_text)
        return metrics | {"rsum": rsum(metrics)}

    def metrics(self) -> dict[str, float]:
        names = {"federated": 0, "local": 1, "global": 2}
        found = {
            f"{name}/{metric}": value
            for name, which in names.items()
            for metric, value in self.evaluate(self.test, which).items()
        }
        for modality, fusion in self.model.fusions.items():
            offset = float(fusion.gate_offset)  # type: ignore[arg-type]
            found[f"gate_offset/{modality}"] = max(min(offset, 1e6), -1e6)
        return found

    def state(self) -> bytes:
        assert self._checkpoint is not None
        kept = Checkpoint(meta=dict(self._checkpoint.meta))
        kept.add_module("model", self.model)
        for name, optimizer in self.optimizers.items():
            if name != "fusion" or self.config.fusion.persistent:
                kept.add_optimizer(name, optimizer)
        return kept.to_bytes()

    def _score(self, metrics: Mapping[str, float]) -> float:
        return metrics["rsum"] if "rsum" in metrics else metrics["acc1"]


class _Gates:
    """The gates of a client's fusions, moved together."""

    def __init__(self, fusions: list[Any]) -> None:
        self._fusions = fusions

    def set_gate_offset(self, offset: float) -> None:
        """Move every gate."""
        for fusion in self._fusions:
            fusion.set_gate_offset(offset)


def _model(config: FederationConfig, kind: ClientKind, checkpoint: Checkpoint) -> ClientModel:
    text = checkpoint.meta["tokenizer"]
    tokenizer = Tokenizer.from_str(text) if text is not None else None
    towers = {}
    for modality in kind.modalities:
        encoder = EncoderConfig.model_validate(checkpoint.meta["encoders"][modality.value])
        held = tokenizer if modality is Modality.TEXT else None
        towers[modality] = Tower(encoder, modality, dim=config.embedding_dim, tokenizer=held)
    return ClientModel(config, kind, towers, len(checkpoint.meta["labels"]))


@contextmanager
def _untouched_statistics(model: nn.Module) -> Iterator[None]:
    """Public batches are normalised by their own statistics and leave the private data's running ones alone."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
