"""What a client's models make of a split: features, logits and scores, view by view.

Shape legend: n samples, C classes, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedafd.domain.config import FusionMode
from fedafd.domain.kinds import Modality
from fedafd.learning.branches import pool_branches
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
    """Of one site, in evaluation mode."""

    def __init__(self, site: LocalSite) -> None:
        self._site = site

    def views(self, name: SplitName) -> dict[str, Evaluation]:
        """As LocalSite.assess_views tells."""
        if self._site.beside is None:
            scored = {view: self._score(name, each) for view, each in self.features(name).items()}
        else:
            logits = self.logits(name)
            pool = {"federated": pool_branches(self._site.task, logits, self._site.weights)} if logits else {}
            scored = {view: self._score_logits(name, each) for view, each in (pool | logits).items()}
        metric = self._site.task.metric.name
        return {view: Evaluation(found, scores.numpy(), metric) for view, (found, scores) in scored.items()}

    def gate_scores(self, name: SplitName) -> Callable[[], Tensor]:
        """Each sample's score [n] of the fused feature, with the gates as they are when it is called."""
        self._site.model.eval()
        with torch.inference_mode():
            local = {m: list(self._local_batches(name, m)) for m in self._site.splits[name].rows}

        @torch.inference_mode()
        def score() -> Tensor:
            fused = {m: torch.cat([v.fused for v in self._viewed(name, m, batches)]) for m, batches in local.items()}
            return self._score(name, fused)[1]

        return score

    def _local_batches(self, name: SplitName, modality: Modality) -> Iterator[Features]:
        rows = self._site.splits[name].rows[modality]
        for start in range(0, len(rows), _BATCH):
            made: Features = self._site.towers[modality](rows[start : start + _BATCH].to(self._site.device))
            # Tokens are only kept where the fusion reads them: a split of them is large.
            keep = self._site.model.mode is FusionMode.TOKENS
            yield made if keep else made._replace(tokens_BPD=made.vector_BD, weights_BP=made.vector_BD)

    def _viewed(self, name: SplitName, modality: Modality, batches: Iterable[Features]) -> Iterator[Views]:
        start = 0
        for local in batches:
            which = torch.arange(start, start + len(local.vector_BD))
            frozen = self._site.held(name, {modality: which})[modality]
            viewed = self._site.model.views(modality, local, frozen)
            yield Views(*(each.cpu() for each in viewed))
            start += len(which)

    @torch.inference_mode()
    def features(self, name: SplitName) -> dict[str, dict[Modality, Tensor]]:
        """A split's features by view and modality; none of an empty split."""
        self._site.model.eval()
        if not self._site.has(name):
            return {}
        made: dict[Modality, Views] = {}
        for modality in self._site.splits[name].rows:
            parts = list(self._viewed(name, modality, self._local_batches(name, modality)))
            made[modality] = Views(*(torch.cat([part[which] for part in parts]) for which in range(3)))
        told = {"federated": 0, "local": 1} | ({"global": 2} if self._site.has_global else {})
        return {view: {m: views[which] for m, views in made.items()} for view, which in told.items()}

    @torch.inference_mode()
    def logits(self, name: SplitName) -> dict[str, Tensor]:
        """A classifier's logits of a split by branch, [n, C]; none of an empty split."""
        assert self._site.beside is not None
        found = self.features(name)
        own = SiteEvaluator(self._site.beside).features(name)
        if not found:
            return {}
        features = {"fused": found["federated"]} | {view: found[view] for view in ("local", "global")}
        logits = {view: _classified(self._site.model, each) for view, each in features.items()}
        return logits | {"alone": _classified(self._site.beside.model, own["federated"])}

    @torch.inference_mode()
    def _score(self, name: SplitName, features: Mapping[Modality, Tensor]) -> Scored:
        """Metrics, and each sample's part of the task's own one."""
        if self._site.model.head is not None:
            return self._score_logits(name, _classified(self._site.model, features))
        split = self._site.splits[name]
        assert split.pairs is not None
        found: Scored = self._site.task.score(features, split.pairs.image_of_text)
        return found

    def _score_logits(self, name: SplitName, logits: Tensor) -> Scored:
        labels, trained = self._site.splits[name].labels, self._site.splits["train"].labels
        found: Scored = self._site.task.score(logits, labels, trained)
        return found


def _classified(model: ClientModel, features: Mapping[Modality, Tensor]) -> Tensor:
    """Logits on the host of features [n, D] of the client's one modality."""
    assert model.head is not None
    (rows,) = features.values()
    logits: Tensor = model.head(rows.to(next(model.head.parameters()).device)).cpu()
    return logits
