"""A client's part of a round: local epochs of alignment (BAA) on the public set and fusion (GFF) with the task on
private data, then representations of the public set. Everything depends on the arguments alone.

Source: FedAFD, arXiv 2603.04890; choices beside the paper are FederationConfig's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.samples import ClientData
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.leaving import Activity, ActivityKind
from fedafd.domain.state_cases import Difference
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.feature_cache import watched
from fedafd.learning.feeding import after_batches
from fedafd.learning.local_site import LocalSite, Sent, SplitName
from fedafd.learning.local_training import Progress, train_locally
from fedafd.learning.private_steps import PrivateTraining
from fedafd.learning.public import Pairs
from fedafd.learning.site_evaluation import SiteEvaluator
from fedafd.learning.waypoints import NOWHERE, Waypoints

__all__ = ["ClientEvaluation", "ClientRound", "evaluate_client", "train_client"]

_SHARE_FEDERATED = 0.7
"""Of the training, where a branch trains alone, too: it has no public batches."""


@dataclass(frozen=True)
class ClientRound:
    """What a participation makes."""

    state: bytes
    representations: dict[Modality, NDArray[np.float32]]
    metrics: dict[str, float]
    scores: NDArray[np.float64]
    """As Evaluation's, of the personalized model."""
    num_private_samples: int
    differences: tuple[Difference, ...] = ()
    """What the state that the round started from was made for, where it was something else."""
    views: Mapping[str, Mapping[str, Evaluation]] = field(default_factory=dict)
    """By split, of those asked for, and there by feature, as SiteEvaluator.views tells them."""
    loss: float | None = None
    """Mean over the steps of the last local epoch; None where that was done before."""


class ClientEvaluation(NamedTuple):
    """Of a personalized state on one split."""

    metrics: dict[str, float]
    """As ClientRound's."""
    scores: dict[str, NDArray[np.float64]]
    """Each sample's part of the task's own metric [n], by view as SiteEvaluator.views names them."""


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
    average_of: Callable[[str], bytes | None] | None = None,
    evaluate_on: SplitName = "test",
    fingerprint: StateFingerprint | None = None,
    waypoints: Waypoints = NOWHERE,
    compare_on: Sequence[SplitName] = (),
    private: PrivateTraining | None = None,
) -> ClientRound:
    """Do the client's part of a round. `state` is its personalized state, None before its first round.

    A state that was made for other classes or another configuration is adapted (docs/site.md). `fingerprint`: what the
    site knows of that beside the other arguments.

    `average_of`: averaged weights by the name of a group, for strategies that average. Metrics, in percent, on the
    client's own split `evaluate_on`: `federated/...` of the personalized model, `global/...` of the frozen global
    feature alone, `local/...` of the client's own feature; none where that split is empty. What `waypoints` hold is not
    done again.
    `compare_on`: splits whose samples' scores by feature are told, too. `private`: train by DP-SGD; then the
    representations alone are private, and not metrics, scores, state and choices of the validation split.

    Raises DivergedError, ConfigurationError,
    DataError, StateUnusableError.
    """
    encoders = {Modality.IMAGE: image_encoder, Modality.TEXT: text_encoder}
    sent = Sent(representations=global_representations, bundles=bundles, public=public, average_of=average_of)
    onward = _Onward(progress)
    with watched(lambda _: onward.goes_on()), after_batches(onward.goes_on):
        return _client_round(
            lambda: LocalSite(
                config, kind, encoders, data, state, seed, device, sent=sent, fingerprint=fingerprint, private=private
            ),
            round_number,
            onward,
            waypoints,
            evaluate_on,
            compare_on,
        )


def _client_round(
    make_site: Callable[[], LocalSite],
    round_number: int,
    progress: Progress,
    waypoints: Waypoints,
    evaluate_on: SplitName,
    compare_on: Sequence[SplitName],
) -> ClientRound:
    progress(0.01, Activity(ActivityKind.READING_DATA))
    site = make_site()
    loss = _train(site, round_number, lambda f, a: progress(0.05 + 0.8 * f, a), waypoints)
    progress(0.87, Activity(ActivityKind.CALIBRATING))
    evaluator = SiteEvaluator(site)
    evaluator.calibrate()
    packed_state = site.saving()
    progress(0.9, Activity(ActivityKind.REPRESENTING))
    reps = site.represent(waypoints)
    progress(0.95, Activity(ActivityKind.EVALUATING))
    views = {name: evaluator.views(name) for name in {evaluate_on, *compare_on}}
    whole = evaluator.in_one_level(views[evaluate_on])
    compared: dict[str, Mapping[str, Evaluation]] = {name: views[name] for name in compare_on}
    return ClientRound(
        packed_state(), reps, whole.metrics, whole.scores, len(site.data.train), tuple(site.differences), compared, loss
    )


def evaluate_client(
    *,
    config: FederationConfig,
    kind: ClientKind,
    data: ClientData,
    global_representations: Mapping[Modality, NDArray[np.float32]],
    bundles: Mapping[Modality, bytes],
    state: bytes,
    evaluate_on: SplitName = "test",
    device: str = "auto",
) -> ClientEvaluation:
    """A personalized state's metrics, as train_client gives them; the representations and bundles of its round."""
    sent = Sent(representations=global_representations, bundles=bundles, public=None)
    site = LocalSite(config, kind, None, data, state, 0, device, sent=sent)
    evaluator = SiteEvaluator(site)
    views = evaluator.views(evaluate_on)
    return ClientEvaluation(evaluator.in_one_level(views).metrics, {name: view.scores for name, view in views.items()})


class _Onward:
    """A client's progress, which also hears of batches that are encoded between two shares."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._last = progress, (0.0, Activity(ActivityKind.READING_DATA))

    def __call__(self, share: float, activity: Activity) -> None:
        self._last = share, activity
        self._progress(share, activity)

    def goes_on(self) -> None:
        """A batch more is encoded: a step, though the share stays."""
        self._progress(*self._last)


def _train(site: LocalSite, round_number: int, progress: Progress, waypoints: Waypoints) -> float | None:
    """The federated model, whose loss is told, then the branch that trains alone, where there is one."""
    if site.beside is None:
        return train_locally(site, round_number, progress, waypoints)
    loss = train_locally(site, round_number, lambda f, a: progress(_SHARE_FEDERATED * f, a), waypoints)
    rest = 1 - _SHARE_FEDERATED
    train_locally(
        site.beside, round_number, lambda f, a: progress(_SHARE_FEDERATED + rest * f, a), waypoints.below("alone")
    )
    return loss
