"""The server's part of a round: train on the public set, represent it, distil the ensemble, evaluate, publish.

Shape legend: N public samples, D embedding dimension. Every function depends on its arguments alone.
Source: FedAFD, arXiv 2603.04890; the recipe's choices beside the paper are FederationConfig's, each with its reason.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedafd.algorithm.centring import centre, public_mean
from fedafd.algorithm.distillation import distillation_targets
from fedafd.algorithm.metrics import fold_recall_at_k, rsum, scored_recall_at_k
from fedafd.artifacts.folders import pack_folder
from fedafd.domain.config import BundleDtype, FederationConfig
from fedafd.domain.kinds import Modality, in_order
from fedafd.learning.checkpoint import tensors_below
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.feature_cache import watched
from fedafd.learning.global_training import GlobalRun, Progress, fresh_state, unpacked
from fedafd.learning.lora import merged_files
from fedafd.learning.model_card import global_card
from fedafd.learning.model_sums import SUMS, sums_file
from fedafd.learning.parallel import Group, Processes, number_of_processes, run_in_processes
from fedafd.learning.public import Pairs, PairTensors
from fedafd.learning.sample_encoder import encode_all
from fedafd.learning.tokens import tokenizer_for
from fedafd.learning.waypoints import NOWHERE, Waypoints, encode_kept

__all__ = ["Prepared", "distil", "distils", "evaluate", "export_global_model", "initial_server_state", "prepare"]

Reps = Mapping[Modality, NDArray[np.float32]]
_FOLD_AT = 5000
_JOB, _STATE, _TARGETS, _PAIRS, _TRAINED = "job.json", "state", "targets.safetensors", "pairs.safetensors", "trained"


@dataclass(frozen=True)
class Prepared:
    """What preparing a round makes: the trained state, I_g and T_g [N, D], and one packed encoder per modality."""

    state: bytes
    representations: dict[Modality, NDArray[np.float32]]
    bundles: dict[Modality, bytes]


def initial_server_state(*, config: FederationConfig, captions: Sequence[Sequence[str]], seed: int) -> bytes:
    """Fresh or pretrained weights; the vocabulary of the public captions, or the pretrained tokenizer.

    Raises ConfigurationError for unusable encoders.
    """
    tokenizer = tokenizer_for(config.text_encoder, (caption for texts in captions for caption in texts))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return fresh_state(config, tokenizer)


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
    run = GlobalRun(config, state, round_number, seed, device)
    pairs = _read(public, run, progress)
    passes = config.server.passes + (config.server.initial_passes if round_number == 1 else 0)
    run = _trained(run, pairs, passes, {}, None, processes, lambda f, a: progress(0.8 * f, a), waypoints)
    packed_state = run.saving()
    reps = {}
    for number, (modality, encoder) in enumerate(run.model.encoders.items()):
        reps[modality] = encode_kept(
            encoder,
            pairs.fixed(modality),
            run.device,
            waypoints,
            modality.value,
            lambda f, m=modality, n=number: progress(0.8 + 0.1 * (n + f), f"representing {m.value}s"),  # type: ignore[misc]
        )
    bundles = {
        m: pack_folder(encoder.to_files(trained_in=_sent_in(config, m))) for m, encoder in run.model.encoders.items()
    }
    return Prepared(packed_state(), reps, bundles)


def _sent_in(config: FederationConfig, modality: Modality) -> torch.dtype:
    """How a bundle holds what is trained of this modality's encoder."""
    encoder = config.encoder_of(modality)
    given = config.bundle_dtype or (BundleDtype.FLOAT16 if encoder.trainable == "lora" else BundleDtype.FLOAT32)
    return torch.float16 if given is BundleDtype.FLOAT16 else torch.float32


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
    run = GlobalRun(config, state, round_number, seed, device)
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
    run = GlobalRun(config, state, 1, 0, device)
    with watched(lambda share: progress(0.2 * share, "features of the test pairs")):
        pairs = PairTensors(samples, run.model.encoders)
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
    model, _ = unpacked(config, state)
    files = {
        f"{modality.value}/{path}": content
        for modality, encoder in model.encoders.items()
        for path, content in merged_files(encoder.to_files()).items()
    }
    described = {"model_type": "fedafd-global", "embedding_dim": config.embedding_dim, "lineage": dict(lineage)}
    files["config.json"] = json.dumps(described, indent=2, sort_keys=True).encode()
    files["README.md"] = global_card(config, metrics=metrics, lineage=lineage).encode()
    return files | {SUMS: sums_file(files)}


def _read(public: Pairs, run: GlobalRun, progress: Progress) -> PairTensors:
    """The public set as the global encoders read it; `progress` hears how far the features of a frozen backbone are."""
    with watched(lambda share: progress(0.0, f"features of the public set, {share:.0%}")):
        return PairTensors(public, run.model.encoders)


def _trained(
    run: GlobalRun,
    pairs: PairTensors,
    passes: int,
    targets: Mapping[Modality, Tensor],
    means: Mapping[Modality, Tensor] | None,
    processes: Processes,
    progress: Progress,
    waypoints: Waypoints = NOWHERE,
) -> GlobalRun:
    """Train here, or in processes of its own; returns the run that holds the trained model."""
    config = run.config
    size = number_of_processes(processes, run.device, min(config.server.batch_size, pairs.count))
    if size == 1:
        run.train(pairs, passes, targets, means, progress, waypoints)
        return run
    job = {"config": json.loads(config.canonical_json()), "round_number": run.round_number, "seed": run.seed}
    given = {"targets": targets} | ({} if means is None else {"means": means})
    tensors = {f"{name}/{m.value}": t.cpu().contiguous() for name, group in given.items() for m, t in group.items()}
    with tempfile.TemporaryDirectory(prefix="fedafd-training-") as path:
        folder = Path(path)
        (folder / _JOB).write_text(json.dumps(job | {"passes": passes, "centred": means is not None}), encoding="utf-8")
        (folder / _STATE).write_bytes(run.state())
        save_file(tensors, folder / _TARGETS)
        save_file(pairs.to_tensors(), folder / _PAIRS)
        run_in_processes(_train_share, size, run.device, folder, progress)
        return GlobalRun(config, (folder / _TRAINED).read_bytes(), run.round_number, run.seed, run.device)


def _train_share(group: Group, device: torch.device, folder: Path, progress: Progress) -> None:
    """What each of several training processes does; the files are memory-mapped, so that they share the pixels."""
    job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    config = FederationConfig.model_validate(job["config"])
    run = GlobalRun(config, (folder / _STATE).read_bytes(), job["round_number"], job["seed"], device, group)
    loaded = load_file(folder / _TARGETS)
    targets = in_order({Modality(m): rows.to(device) for m, rows in tensors_below(loaded, "targets").items()})
    means = {Modality(m): mean for m, mean in tensors_below(loaded, "means").items()} if job["centred"] else None
    run.train(PairTensors.from_tensors(load_file(folder / _PAIRS)), job["passes"], targets, means, progress)
    if group.rank == 0:
        (folder / _TRAINED).write_bytes(run.state())
