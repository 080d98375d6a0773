"""The baseline: a client's own encoders trained alone, by itself, for as many rounds as it took part in.

It is strategy `local` of the same federation: same encoders, first weights, batches, epochs, optimizers and seeds, and
nothing of the other sites or of the public set. What the federation gave is what a model has more than this one.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedafd.datasets.samples import ClientData
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.seeds import derive_seed
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.alone import alone
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.local_site import LocalSite, SplitName
from fedafd.learning.local_training import Progress, train_locally
from fedafd.learning.site_evaluation import SiteEvaluator
from fedafd.learning.waypoints import NOWHERE, Waypoints

__all__ = ["BaselineRound", "train_alone", "train_baseline"]

_SPLITS: tuple[SplitName, ...] = ("val", "test")


@dataclass(frozen=True)
class BaselineRound:
    """The baseline after one more round."""

    state: bytes
    evaluations: dict[str, Evaluation]
    """By split, of those that have a sample."""


def train_baseline(
    *,
    config: FederationConfig,
    kind: ClientKind,
    image_encoder: EncoderConfig | None,
    text_encoder: EncoderConfig | None,
    data: ClientData,
    client: str,
    round_number: int,
    state: bytes | None,
    tokenizer: str | None = None,
    device: str = "auto",
    progress: Progress = lambda _, __: None,
    waypoints: Waypoints = NOWHERE,
    fingerprint: StateFingerprint | None = None,
) -> BaselineRound:
    """Train the baseline for round `round_number`, counted from 1; `state` is that of the round before, None at first.

    `client`: its name in the federation, which its seeds follow from. `tokenizer`: the one of its federated model, so
    that both read the same words; None: made from its own texts. Raises what fedafd.learning.client_round raises.
    """
    encoders = {Modality.IMAGE: image_encoder, Modality.TEXT: text_encoder}
    seed = derive_seed(config.seed, round_number, client, "train")
    site = LocalSite(
        alone(config),
        kind,
        encoders,
        data,
        state,
        seed,
        device,
        sent=None,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
    )
    train_locally(site, round_number, progress, waypoints)
    evaluator = SiteEvaluator(site)
    views = {name: evaluator.views(name) for name in _SPLITS}
    return BaselineRound(site.state(), {name: view["federated"] for name, view in views.items() if view})


def train_alone(
    *,
    config: FederationConfig,
    kind: ClientKind,
    image_encoder: EncoderConfig | None,
    text_encoder: EncoderConfig | None,
    data: ClientData,
    rounds: int,
    client: str,
    device: str = "auto",
    progress: Progress = lambda _, __: None,
) -> BaselineRound:
    """All rounds of the baseline in one go, at least one; the last of them."""
    state = None
    for number in range(1, max(rounds, 1) + 1):
        trained = train_baseline(
            config=config,
            kind=kind,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            data=data,
            client=client,
            round_number=number,
            state=state,
            device=device,
            progress=lambda f, a, n=number: progress((n - 1 + f) / rounds, a),  # type: ignore[misc]
        )
        state = trained.state
    return trained
