"""The site's own training: private data, and the client's part of each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedafd.agent.kept_scores import COMPARED_SPLITS, KeptScores
from fedafd.agent.noise import noised
from fedafd.agent.outgoing import metrics_to_send, samples_to_send
from fedafd.agent.saved_state import fingerprint_of_site, tell_differences
from fedafd.agent.training import LocalResult, LocalTask, ModelWriter, ProgressCallback
from fedafd.artifacts.manifest import Manifest
from fedafd.artifacts.representations import decode_global_representations, encode_representations
from fedafd.datasets import ClientData, PixelCache, PublicSet, read_manifest
from fedafd.datasets.fingerprint import DataFingerprint
from fedafd.datasets.intensity import IntensityRange
from fedafd.datasets.labels import class_counts
from fedafd.datasets.pixels import keep_decoded
from fedafd.datasets.samples import PairSplit
from fedafd.domain.blame import blaming
from fedafd.domain.config import AgentConfig, AveragingMode
from fedafd.domain.errors import ArtifactCorruptError, PublicSetError
from fedafd.domain.kinds import Modality

if TYPE_CHECKING:
    from fedafd.learning.client_round import ClientRound
    from fedafd.learning.personalized_export import Recipe

__all__ = ["Site"]


class Site:
    """One site, with its private data."""

    def __init__(
        self,
        config: AgentConfig,
        data: ClientData,
        *,
        content: DataFingerprint | None = None,
        cache_limit_bytes: int = 4 * 2**30,
    ) -> None:
        """`content` is the fingerprint of `data`, by which later comparisons know whether they are the same."""
        self._config, self._content = config, content
        self._pixels = PixelCache(config.state_dir / "pixels", limit_bytes=cache_limit_bytes)
        self._public: PublicSet | None = None
        self._undecoded = data
        # Decoded in the first round, and kept for the next ones.
        self._data = keep_decoded(data)
        self._fingerprint = fingerprint_of_site(config, data.labels)

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        """Do the client's part of a round; blocks. Deterministic in the private data and in what task.key() is of."""
        bundles = {modality: path.read_bytes() for modality, path in task.encoder_bundles.items()}
        outcome = self._client_round(task, bundles, progress)
        tell_differences(outcome.differences)
        recipe = self._recipe(task, outcome.metrics)
        noisy = noised(outcome.representations, task.representation_noise)
        return LocalResult(
            representations=encode_representations(noisy, task.public_set_sha256, task.config.wire_dtype),
            state=outcome.state,
            personalized_model=self._shared_model(recipe, task.encoder_bundles) if task.share_model else None,
            model_recipe=recipe.to_json(),
            weights=_weights(task, outcome.state, samples_to_send(outcome.num_private_samples, self._config.share)),
            scores=KeptScores.of(self._undecoded, outcome.views, self._content, loss=outcome.loss).to_bytes(),
            metrics=outcome.metrics,
            num_private_samples=outcome.num_private_samples,
            differences=outcome.differences,
        )

    def _client_round(
        self, task: LocalTask, bundles: Mapping[Modality, bytes], progress: ProgressCallback
    ) -> ClientRound:
        """Read what the server sent for the round, and train."""
        import torch

        from fedafd.learning.client_round import train_client
        from fedafd.learning.feature_cache import keep_features
        from fedafd.learning.private_steps import PrivateTraining

        if self._config.threads is not None:
            torch.set_num_threads(self._config.threads)
        keep_features(self._config.state_dir / "features")
        with blaming(PublicSetError):
            manifest = read_manifest(task.manifest.read_bytes())
        if manifest.sha256 != task.public_set_sha256:
            raise ArtifactCorruptError("the public set's manifest does not have the announced hash")
        files = {shard.name: task.manifest.parent / shard.sha256 for shard in manifest.shards}
        global_reps = decode_global_representations(
            task.global_representations.read_bytes(),
            num_samples=manifest.num_samples(),
            embedding_dim=task.config.embedding_dim,
            public_set_sha256=task.public_set_sha256,
            dtype=task.config.wire_dtype,
        )
        return train_client(
            config=task.config,
            kind=self._config.kind,
            image_encoder=self._config.image_encoder,
            text_encoder=self._config.text_encoder,
            data=self._data,
            public=self._public_set(manifest, files).split("train"),
            global_representations=global_reps,
            bundles=bundles,
            state=task.previous_state,
            round_number=task.round_number,
            seed=task.seed,
            device=self._config.device,
            progress=progress,
            average_of=partial(_average_of, task) if task.averages else None,
            fingerprint=self._fingerprint,
            compare_on=COMPARED_SPLITS,
            private=None if task.dp is None else PrivateTraining(config=task.dp, spend=task.spend),
        )

    def _recipe(self, task: LocalTask, metrics: Mapping[str, float]) -> Recipe:
        """Of the site's own model folder."""
        from fedafd.learning.model_card import SiteFacts
        from fedafd.learning.personalized_export import Recipe

        return Recipe(
            config=task.config,
            kind=self._config.kind,
            metrics=metrics,
            lineage={"round": task.round_number, "public_set_sha256": task.public_set_sha256},
            intensity_range=_intensity_range(self._config.data.options),
            facts=SiteFacts(**_facts(self._data)),
        )

    def _shared_model(self, recipe: Recipe, bundles: Mapping[Modality, Path]) -> ModelWriter:
        """Of the model as it is sent up: what a site keeps to itself is not in its card either."""
        from fedafd.learning.personalized_export import write_shared_model

        shared = replace(recipe, facts=None, metrics=metrics_to_send(recipe.metrics, self._config.share))
        return lambda state, target: write_shared_model(target, shared, state=state, bundles=bundles)

    def _public_set(self, manifest: Manifest, files: Mapping[str, Path]) -> PublicSet:
        if self._public is None or self._public.manifest != manifest:
            self._public = PublicSet(manifest, files, pixels=self._pixels)
        return self._public


def _average_of(task: LocalTask, group: str) -> bytes | None:
    path = task.averages.get(group)
    return None if path is None else path.read_bytes()


def _facts(data: ClientData) -> dict[str, dict[str, int]]:
    """What the site's own model card says of its data."""
    samples = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    if isinstance(data.train, PairSplit):
        return {"samples": samples}
    counts = class_counts(data.train.labels, len(data.labels)).tolist()
    return {"samples": samples, "classes": dict(zip(data.labels, counts, strict=True))}


def _intensity_range(options: Mapping[str, Any]) -> IntensityRange | None:
    """The window that the site's pictures are read with, for those that its model will be asked about."""
    value = options.get("intensity_range")
    return (float(value[0]), float(value[1])) if isinstance(value, list | tuple) else None


def _weights(task: LocalTask, state: bytes, num_samples: int) -> bytes | None:
    from fedafd.learning.fedavg import weight_update

    return None if task.config.averaging is AveragingMode.OFF else weight_update(state, num_samples)
