"""The server's part of a round: train on the public set, represent it, distil the ensemble, evaluate, publish.

Shape legend: N public samples, D embedding dimension. Every function depends on its arguments alone.
Source: FedAFD, arXiv 2603.04890; the recipe's choices beside the paper are FederationConfig's, each with its reason.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.algorithm.centring import centre, public_mean
from fedafd.algorithm.contrastive import SoftContrastiveLoss
from fedafd.algorithm.distillation import distillation_loss, distillation_targets
from fedafd.algorithm.metrics import fold_recall_at_k, rsum, scored_recall_at_k
from fedafd.artifacts.folders import pack_folder
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import Modality, in_order
from fedafd.domain.seeds import derive_seed
from fedafd.learning.acceleration import accelerate, encode_in
from fedafd.learning.checkpoint import Checkpoint, tensors_below
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.feature_cache import watched
from fedafd.learning.feeding import gathered, sent
from fedafd.learning.images import draw, moved
from fedafd.learning.lora import merged_files
from fedafd.learning.model_card import global_card
from fedafd.learning.model_sums import SUMS, sums_file
from fedafd.learning.optimizers import LossCheck, choose_device, cosine_factor, make_optimizer
from fedafd.learning.parallel import ALONE, Group, Processes, number_of_processes, run_in_processes
from fedafd.learning.public import Pairs, PairTensors
from fedafd.learning.tokens import tokenizer_for
from fedafd.learning.tower import Tower, encode_all, is_pooled
from fedafd.learning.trainable import trainable_parameters
from fedafd.learning.waypoints import NOWHERE, TrainingWay, Waypoints, encode_kept

__all__ = ["Prepared", "distil", "distils", "evaluate", "export_global_model", "initial_server_state", "prepare"]

Progress = Callable[[float, str], None]
Reps = Mapping[Modality, NDArray[np.float32]]
_FOLD_AT = 5000
_JOB, _STATE, _AIMS, _PAIRS, _TRAINED = "job.json", "state", "aims.safetensors", "pairs.safetensors", "trained"


@dataclass(frozen=True)
class Prepared:
    """What preparing a round makes: the trained state, I_g and T_g [N, D], and one packed encoder per modality."""

    state: bytes
    representations: dict[Modality, NDArray[np.float32]]
    bundles: dict[Modality, bytes]


class _GlobalModel(nn.Module):
    def __init__(
        self, config: FederationConfig, tokenizer: Tokenizer, encoders: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """`encoders`: what the towers of an earlier version say of themselves; nothing pretrained is read again."""
        super().__init__()
        dim, chosen = config.embedding_dim, {Modality.IMAGE: config.image_encoder, Modality.TEXT: config.text_encoder}
        if encoders is not None:
            trainable = {modality: encoder.trainable for modality, encoder in chosen.items()}
            chosen = {m: EncoderConfig.model_validate({**encoders[m.value], "trainable": trainable[m]}) for m in chosen}
        self.image = Tower(chosen[Modality.IMAGE], Modality.IMAGE, dim=dim)
        self.text = Tower(chosen[Modality.TEXT], Modality.TEXT, dim=dim, tokenizer=tokenizer)
        self.contrast = SoftContrastiveLoss(config.server.loss_scale)

    @property
    def towers(self) -> dict[Modality, Tower]:
        return {Modality.IMAGE: self.image, Modality.TEXT: self.text}


def initial_server_state(*, config: FederationConfig, captions: Sequence[Sequence[str]], seed: int) -> bytes:
    """Fresh or pretrained weights; the vocabulary of the public captions, or the pretrained tokenizer.

    Raises ConfigurationError for unusable encoders.
    """
    tokenizer = tokenizer_for(config.text_encoder, (caption for texts in captions for caption in texts))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _GlobalModel(config, tokenizer)
    return _packed(model, _optimizer(model, config, 1))


def prepare(
    *,
    config: FederationConfig,
    state: bytes,
    public: Pairs,
    round_number: int,
    seed: int,
    device: str = "auto",
    processes: Processes = 1,
    progress: Progress = lambda _, __: None,
    waypoints: Waypoints = NOWHERE,
) -> Prepared:
    """Train with the soft contrastive loss, in round 1 first `server.initial_passes`, then represent the public set.

    `processes` share the training (fedafd.learning.parallel). The work goes on from `waypoints`, and is kept there
    (fedafd.learning.waypoints) as far as a single process trains. Raises DivergedError, ConfigurationError,
    WorkerLostError.
    """
    run = _Run(config, state, round_number, seed, device)
    pairs = _read(public, run, progress)
    passes = config.server.passes + (config.server.initial_passes if round_number == 1 else 0)
    run = _trained(run, pairs, passes, {}, None, processes, lambda f, a: progress(0.8 * f, a), waypoints)
    reps = {}
    for number, (modality, tower) in enumerate(run.model.towers.items()):
        reps[modality] = encode_kept(
            tower,
            pairs.fixed(modality),
            run.device,
            waypoints,
            modality.value,
            lambda f, m=modality, n=number: progress(0.8 + 0.1 * (n + f), f"representing {m.value}s"),  # type: ignore[misc]
        )
    bundles = {modality: pack_folder(tower.to_files()) for modality, tower in run.model.towers.items()}
    return Prepared(run.state(), reps, bundles)


def distils(config: FederationConfig, round_number: int) -> bool:
    """Whether a round distils what its clients delivered."""
    return config.distillation.enabled and round_number >= config.distillation.start_round


def distil(
    *,
    config: FederationConfig,
    state: bytes,
    public: Pairs,
    representations: Reps,
    aggregates: Reps,
    round_number: int,
    seed: int,
    device: str = "auto",
    processes: Processes = 1,
    progress: Progress = lambda _, __: None,
    waypoints: Waypoints = NOWHERE,
) -> bytes:
    """Distil the ensemble into the global model; modalities without an aggregate are left out.

    Nothing is distilled before `distillation.start_round`, where it is not enabled, and when nobody delivered. A joint
    pass then trains on the public set alone, so that every strategy gets the same public passes; a pass that would only
    distil is left out and gives the state back unchanged. `processes` and `waypoints` as `prepare`'s. Raises
    DivergedError, ConfigurationError, WorkerLostError.
    """
    if not distils(config, round_number):
        aggregates = {}
    if not aggregates and not config.distillation.joint:
        return state
    run = _Run(config, state, round_number, seed, device)
    own = {m: torch.from_numpy(np.asarray(rows)) for m, rows in representations.items()}
    means = {m: public_mean(rows) for m, rows in own.items()} if config.distillation.centre else None
    targets = {}
    for modality, rows in in_order(aggregates).items():
        targets[modality] = distillation_targets(
            torch.from_numpy(np.asarray(rows)),
            own[modality] if means is None else centre(own[modality], means[modality]),
            self_share=config.distillation.self_share,
            normalise=config.distillation.normalise_aggregate,
        ).to(run.device)
    pairs = _read(public, run, progress)
    return _trained(run, pairs, config.distillation.passes, targets, means, processes, progress, waypoints).state()


def evaluate(
    *,
    config: FederationConfig,
    state: bytes,
    samples: Pairs,
    device: str = "auto",
    progress: Progress = lambda _, __: None,
) -> Evaluation:
    """Recall@1/5/10 both ways on `samples`, and their sum; from 5,000 pairs on also five-fold."""
    run = _Run(config, state, 1, 0, device)
    with watched(lambda share: progress(0.2 * share, "features of the test pairs")):
        pairs = PairTensors(samples, run.model.towers)
    progress(0.2, "encoding the test pairs")
    image_reps = torch.from_numpy(encode_all(run.model.image, pairs.fixed(Modality.IMAGE), run.device))
    text_reps = torch.from_numpy(encode_all(run.model.text, pairs.all_captions(), run.device))
    metrics, scores = scored_recall_at_k(image_reps, text_reps, pairs.image_of_text)
    metrics["rsum"] = rsum(metrics)
    if pairs.count >= _FOLD_AT:
        folded = fold_recall_at_k(image_reps, text_reps, pairs.image_of_text)
        metrics |= {f"folds5_{name}": value for name, value in folded.items()}
    return Evaluation(metrics, scores.numpy())


def export_global_model(
    *, config: FederationConfig, state: bytes, metrics: Mapping[str, float], lineage: Mapping[str, Any]
) -> dict[str, bytes]:
    """The model folder: config.json, a sub-folder per encoder, a model card with lineage and metrics, SHA256SUMS."""
    model, _ = _unpacked(config, state)
    files = {
        f"{modality.value}/{path}": content
        for modality, tower in model.towers.items()
        for path, content in merged_files(tower.to_files()).items()
    }
    described = {"model_type": "fedafd-global", "embedding_dim": config.embedding_dim, "lineage": dict(lineage)}
    files["config.json"] = json.dumps(described, indent=2, sort_keys=True).encode()
    files["README.md"] = global_card(config, metrics=metrics, lineage=lineage).encode()
    return files | {SUMS: sums_file(files)}


class _Run:
    """A state unpacked onto a device."""

    def __init__(
        self,
        config: FederationConfig,
        state: bytes,
        round_number: int,
        seed: int,
        device: str | torch.device,
        group: Group = ALONE,
    ) -> None:
        self.config, self.round_number, self.seed, self.group = config, round_number, seed, group
        self.device = choose_device(device) if isinstance(device, str) else device
        self.model, checkpoint = _unpacked(config, state)
        self.model.to(self.device)
        encode_in(self.model.towers.values(), config.server.encode_autocast, self.device)
        self.optimizer = _optimizer(self.model, config, round_number)
        if all(
            encoder.get("trainable", "all") == self.model.towers[Modality(name)].config.trainable
            for name, encoder in checkpoint.meta.get("encoders", {}).items()
        ):
            checkpoint.load_optimizer("optimizer", self.optimizer)
        self.generator = torch.Generator().manual_seed(seed)
        self.encoders: dict[Modality, nn.Module] = dict(self.model.towers)
        self.losses = LossCheck(f"global training, round {round_number}")

    def state(self) -> bytes:
        return _packed(self.model, self.optimizer)

    def train(
        self,
        pairs: PairTensors,
        passes: int,
        targets: Mapping[Modality, Tensor],
        means: Mapping[Modality, Tensor] | None,
        progress: Progress,
        waypoints: Waypoints = NOWHERE,
    ) -> None:
        server = self.config.server
        size = min(server.batch_size, pairs.count)
        steps = max(1, pairs.count // size)
        towers = self.model.towers
        pairs.keep_on(self.device)
        means = None if means is None else {m: mean.to(self.device) for m, mean in means.items()}
        accelerate(
            towers.values(),
            device=self.device,
            autocast=server.autocast,
            accumulate=server.accumulate,
            compiled=server.compile,
        )
        self.encoders = {modality: self.group.wrap(tower, self.device) for modality, tower in towers.items()}
        with torch.random.fork_rng(devices=[]):
            # Each process draws dropout masks of its own.
            torch.manual_seed(self.seed if self.group.rank == 0 else derive_seed(self.seed, "rank", self.group.rank))
            self.model.train()
            way = TrainingWay(waypoints, self.model, {"optimizer": self.optimizer}, self.device, self.generator)
            done, held = way.restore()
            order = held.get("order")
            for number in range(done, passes * steps):
                if number % steps == 0 or order is None:
                    order = torch.randperm(pairs.count, generator=self.generator)
                progress(number / (passes * steps), f"public pass {number // steps + 1} of {passes}")
                start = number % steps * size
                self._step(pairs, order[start : start + size], targets, means)
                last = number + 1 == passes * steps
                if last or waypoints.due():
                    self.losses.read()  # what is kept is of a run that has not diverged
                way.keep(number + 1, order=order, last=last)
            self.model.eval()

    def _step(
        self,
        pairs: PairTensors,
        rows: Tensor,
        targets: Mapping[Modality, Tensor],
        means: Mapping[Modality, Tensor] | None,
    ) -> None:
        config = self.config
        # All draws are the whole batch's, so that they do not depend on the number of processes.
        pixels = pairs.drawn(Modality.IMAGE, self.group.slice(rows), self.generator)
        if config.server.augment and not is_pooled(pixels):
            draws = draw(len(rows), pixels.shape[-1], self.generator)
            pixels = moved(pixels, draws._replace(mirrored=self.group.slice(draws.mirrored)))
        ids = self.group.slice(pairs.drawn(Modality.TEXT, rows, self.generator))
        features = {
            modality: self.group.gathered(self.encoders[modality](sent(batch, self.device)).vector_BD)
            for modality, batch in ((Modality.IMAGE, pixels), (Modality.TEXT, ids))
        }
        loss = features[Modality.IMAGE].new_zeros(())
        if not targets or config.distillation.joint:
            loss = self.model.contrast(features[Modality.IMAGE], features[Modality.TEXT]) / len(rows)
        if targets:
            told = {m: f if means is None else centre(f, means[m]) for m, f in features.items()}
            aims = {m: gathered(target, rows) for m, target in targets.items()}
            loss = loss + distillation_loss(told, aims, weight=config.distillation.weight)
        self.losses.add(loss)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.group.averaged(self.model.contrast.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), config.server.clip_norm)
        self.optimizer.step()


def _read(public: Pairs, run: _Run, progress: Progress) -> PairTensors:
    """The public set as the global towers read it; where a backbone is frozen, that is heard."""
    with watched(lambda share: progress(0.0, f"features of the public set, {share:.0%}")):
        return PairTensors(public, run.model.towers)


def _trained(
    run: _Run,
    pairs: PairTensors,
    passes: int,
    targets: Mapping[Modality, Tensor],
    means: Mapping[Modality, Tensor] | None,
    processes: Processes,
    progress: Progress,
    waypoints: Waypoints = NOWHERE,
) -> _Run:
    """Train here, or in processes of its own; returns the run that holds the trained model."""
    config = run.config
    size = number_of_processes(processes, run.device, min(config.server.batch_size, pairs.count))
    if size == 1:
        run.train(pairs, passes, targets, means, progress, waypoints)
        return run
    job = {"config": json.loads(config.canonical_json()), "round_number": run.round_number, "seed": run.seed}
    given = {"targets": targets} | ({} if means is None else {"means": means})
    tensors = {f"{name}/{m.value}": t.cpu().contiguous() for name, each in given.items() for m, t in each.items()}
    with tempfile.TemporaryDirectory(prefix="fedafd-training-") as path:
        folder = Path(path)
        (folder / _JOB).write_text(json.dumps(job | {"passes": passes, "centred": means is not None}), encoding="utf-8")
        (folder / _STATE).write_bytes(run.state())
        save_file(tensors, folder / _AIMS)
        save_file(pairs.to_tensors(), folder / _PAIRS)
        run_in_processes(_train_share, size, run.device, folder, progress)
        return _Run(config, (folder / _TRAINED).read_bytes(), run.round_number, run.seed, run.device)


def _train_share(group: Group, device: torch.device, folder: Path, progress: Progress) -> None:
    """What each of several training processes does; the files are memory-mapped, so that they share the pixels."""
    job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    config = FederationConfig.model_validate(job["config"])
    run = _Run(config, (folder / _STATE).read_bytes(), job["round_number"], job["seed"], device, group)
    aims = load_file(folder / _AIMS)
    targets = in_order({Modality(m): rows.to(device) for m, rows in tensors_below(aims, "targets").items()})
    means = {Modality(m): mean for m, mean in tensors_below(aims, "means").items()} if job["centred"] else None
    run.train(PairTensors.from_tensors(load_file(folder / _PAIRS)), job["passes"], targets, means, progress)
    if group.rank == 0:
        (folder / _TRAINED).write_bytes(run.state())


def _optimizer(model: nn.Module, config: FederationConfig, round_number: int) -> torch.optim.Optimizer:
    server = config.server
    factor = cosine_factor(round_number, server.schedule_rounds) if server.schedule == "cosine" else 1.0
    return make_optimizer(
        server.optimizer, trainable_parameters(model), server.learning_rate * factor, server.weight_decay
    )


def _packed(model: _GlobalModel, optimizer: torch.optim.Optimizer) -> bytes:
    tokenizer = model.text.tokenizer
    checkpoint = Checkpoint(
        meta={
            "tokenizer": tokenizer.to_str() if tokenizer is not None else None,
            "encoders": {
                modality.value: tower.config.model_dump(mode="json") for modality, tower in model.towers.items()
            },
        }
    )
    checkpoint.add_module("model", model)
    checkpoint.add_optimizer("optimizer", optimizer)
    return checkpoint.to_bytes()


def _unpacked(config: FederationConfig, state: bytes) -> tuple[_GlobalModel, Checkpoint]:
    checkpoint = Checkpoint.from_bytes(state)
    tokenizer = Tokenizer.from_str(checkpoint.meta["tokenizer"])
    model = _GlobalModel(config, tokenizer, checkpoint.meta.get("encoders"))
    checkpoint.load_module("model", model)
    return model.eval(), checkpoint
