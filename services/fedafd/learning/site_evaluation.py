"""What a client's models make of a split: features, logits and scores, view by view.

Shape legend: n samples, C classes, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedafd.algorithm.fusion import calibrate_gate
from fedafd.domain.config import FusionMode
from fedafd.domain.kinds import Modality
from fedafd.learning.branches import fit_branches, pool_branches
from fedafd.learning.client_data import SplitName
from fedafd.learning.client_model import ClientModel, Views
from fedafd.learning.encoders import Features
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.tasks.base import Scored

if TYPE_CHECKING:
    from fedafd.learning.local_site import LocalSite

__all__ = ["SiteEvaluator"]

_BATCH = 256


class SiteEvaluator:
    """Of one site, in evaluation mode: its scores on its splits, and its choices on the validation split.

    Each split is encoded once, so the encoders stay as they are for as long as this lives. What only calibration
    changes, gates and weights, may change.
    """

    def __init__(self, site: LocalSite) -> None:
        self._site = site
        self._beside = None if site.beside is None else SiteEvaluator(site.beside)
        self._encoded: dict[tuple[SplitName, Modality], list[Features]] = {}

    def views(self, name: SplitName) -> dict[str, Evaluation]:
        """A split with the personalized model (`federated`), the own (`local`) and the frozen (`global`) feature.

        With a branch that trains alone also that one (`alone`) and the fused feature by itself (`fused`), which
        otherwise is the personalized model. None for an empty split.
        """
        if self._site.beside is None:
            scored = {view: self._score(name, rows) for view, rows in self.features(name).items()}
        else:
            logits = self.logits(name)
            pool = {"federated": pool_branches(self._site.task, logits, self._site.weights)} if logits else {}
            scored = {view: self._score_logits(name, rows) for view, rows in (pool | logits).items()}
        metric = self._site.task.metric.name
        return {view: Evaluation(metrics, scores.numpy(), metric) for view, (metrics, scores) in scored.items()}

    def assess(self, name: SplitName) -> Evaluation:
        """`views` in one level, with the offset of each gate; the scores are the personalized model's."""
        return self.in_one_level(self.views(name))

    def in_one_level(self, views: Mapping[str, Evaluation]) -> Evaluation:
        """What `assess` makes of `views`."""
        flat = {
            f"{view}/{metric}": value
            for view, evaluation in views.items()
            for metric, value in evaluation.metrics.items()
        }
        for modality, fusion in self._site.model.fusions.items():
            offset = float(fusion.gate_offset)  # type: ignore[arg-type]
            flat[f"gate_offset/{modality}"] = max(min(offset, 1e6), -1e6)
        scores = views["federated"].scores if views else np.empty(0)
        return Evaluation(flat, scores, f"federated/{self._site.task.metric.name}")

    def calibrate(self) -> None:
        """Choose the gate's offset, then the branches' weights, on the validation split.

        Without one the gate stays as trained, and the model predicts by the fused feature.
        """
        site = self._site
        if not site.has("val"):
            return
        if site.config.fusion.calibrate_gate and site.model.fusions:
            calibrate_gate(site.gates, self.gate_scores("val"))  # type: ignore[arg-type]
        if site.beside is not None:
            labels, trained = site.splits["val"].labels, site.splits["train"].labels
            assert labels is not None
            assert trained is not None
            site.weights = fit_branches(site.task, self.logits("val"), labels, trained)

    def gate_scores(self, name: SplitName) -> Callable[[], Tensor]:
        """Each sample's score [n] of the fused feature, with the gates as they are when it is called."""
        self._site.model.eval()
        with torch.inference_mode():
            local = {m: list(self._local(name, m)) for m in self._site.splits[name].rows}

        @torch.inference_mode()
        def score() -> Tensor:
            fused = {m: torch.cat([v.fused for v in self._viewed(name, m, batches)]) for m, batches in local.items()}
            return self._score(name, fused)[1]

        return score

    def _local(self, name: SplitName, modality: Modality) -> Iterable[Features]:
        """The split by the client's own encoder, in batches; encoded anew only where tokens would have to be kept."""
        if self._site.model.mode is FusionMode.TOKENS:
            return self._local_batches(name, modality)
        if (name, modality) not in self._encoded:
            self._encoded[name, modality] = list(self._local_batches(name, modality))
        return self._encoded[name, modality]

    def _local_batches(self, name: SplitName, modality: Modality) -> Iterator[Features]:
        rows = self._site.splits[name].rows[modality]
        for start in range(0, len(rows), _BATCH):
            features: Features = self._site.encoders[modality](rows[start : start + _BATCH].to(self._site.device))
            # Tokens are only kept where the fusion reads them: a split of them is large.
            keep = self._site.model.mode is FusionMode.TOKENS
            yield features if keep else features.without_tokens()

    def _viewed(self, name: SplitName, modality: Modality, batches: Iterable[Features]) -> Iterator[Views]:
        start = 0
        for local in batches:
            which = torch.arange(start, start + len(local.vector_BD))
            frozen = self._site.frozen_features(name, {modality: which})[modality]
            viewed = self._site.model.views(modality, local, frozen)
            yield Views(*(features.cpu() for features in viewed))
            start += len(which)

    @torch.inference_mode()
    def features(self, name: SplitName) -> dict[str, dict[Modality, Tensor]]:
        """A split's features by view and modality; none of an empty split."""
        self._site.model.eval()
        if not self._site.has(name):
            return {}
        gathered_views: dict[Modality, Views] = {}
        for modality in self._site.splits[name].rows:
            parts = list(self._viewed(name, modality, self._local(name, modality)))
            gathered_views[modality] = Views(*map(torch.cat, zip(*parts, strict=True)))
        by_view = {
            "federated": {m: views.fused for m, views in gathered_views.items()},
            "local": {m: views.local for m, views in gathered_views.items()},
        }
        if self._site.has_global:
            by_view["global"] = {m: views.global_ for m, views in gathered_views.items()}
        return by_view

    @torch.inference_mode()
    def logits(self, name: SplitName) -> dict[str, Tensor]:
        """A classifier's logits of a split by branch, [n, C]; none of an empty split."""
        assert self._site.beside is not None
        assert self._beside is not None
        by_view = self.features(name)
        own = self._beside.features(name)
        if not by_view:
            return {}
        features = {"fused": by_view["federated"]} | {view: by_view[view] for view in ("local", "global")}
        logits = {view: _classified(self._site.model, rows) for view, rows in features.items()}
        return logits | {"alone": _classified(self._site.beside.model, own["federated"])}

    @torch.inference_mode()
    def _score(self, name: SplitName, features: Mapping[Modality, Tensor]) -> Scored:
        """Metrics, and each sample's part of the task's own one."""
        if self._site.model.head is not None:
            return self._score_logits(name, _classified(self._site.model, features))
        split = self._site.splits[name]
        assert split.pairs is not None
        scored: Scored = self._site.task.score(features, split.pairs.image_of_text)
        return scored

    def _score_logits(self, name: SplitName, logits: Tensor) -> Scored:
        labels, trained = self._site.splits[name].labels, self._site.splits["train"].labels
        scored: Scored = self._site.task.score(logits, labels, trained)
        return scored


def _classified(model: ClientModel, features: Mapping[Modality, Tensor]) -> Tensor:
    """Logits on the host of features [n, D] of the client's one modality."""
    assert model.head is not None
    (rows,) = features.values()
    logits: Tensor = model.head(rows.to(next(model.head.parameters()).device)).cpu()
    return logits
