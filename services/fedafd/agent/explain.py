"""`fedafd agent explain`: what would leave this site by its agent.yaml, and what its policy refuses, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedafd.agent.noise import gaussian_epsilon
from fedafd.agent.policy_words import policy_words
from fedafd.agent.what_leaves import BLOBS, MESSAGES, Leaving
from fedafd.domain.config import AgentConfig, DpConfig
from fedafd.domain.hub_names import hub_name
from fedafd.domain.kinds import Modality

__all__ = ["explained", "explained_as_data", "leaves"]

_ROWS, _DIM = 1000, 256
"""Of a small public set, and the default embedding dimension."""
_WORTH_THE_NAME = 10.0


def leaves(row: Leaving, config: AgentConfig) -> bool:
    """Whether the site lets it out."""
    return not row.needs or bool(getattr(config.share, row.needs))


def explained(config: AgentConfig, *, fields: bool = False) -> Iterator[str]:
    """Line by line; with `fields` each field of the wire, as docs/privacy.md has them."""
    every = (*BLOBS, *MESSAGES)
    yield f"Leaves this site, to {config.aggregator} and to nobody else:"
    for row in BLOBS:
        if leaves(row, config):
            yield f"  {row.name}: {_plain(row.holds)}; {_plain(row.when)}"
    for row in MESSAGES:
        if row.needs and leaves(row, config):
            yield f"  {_last(row.name)}: {_plain(row.holds)}"
    rest = [row for row in MESSAGES if not row.needs]
    yield f"  and what runs a round and tells nothing of your data: {len(rest)} fields, each with --fields"
    if fields:
        yield from (f"    {row.name}: {_plain(row.holds)}; {_plain(row.when)}" for row in rest)
    noise = config.share.representation_noise
    if noise:
        epsilon = gaussian_epsilon(noise, num_rows=_ROWS, dim=_DIM)
        yield f"  each representation has noise of {noise:g} of a row's length (share.representation_noise): less"
        yield f"  can be drawn from a single one; it is {_worth(epsilon)}: with {_ROWS:,} public samples"
        yield f"  and D {_DIM} a round has epsilon {epsilon:.3g} at delta 1e-6, and rounds add up"
    if weights := config.base_weights.named(config.kind):
        yield f"  the server sees by what is not downloaded that you have {' and '.join(weights)} (base_weights); one"
        yield "  that has half of such weights itself can find out about the rest: name none that are secret"
    if config.privacy.dp is not None:
        yield from _budget(config.privacy.dp)
    withheld = [row for row in every if not leaves(row, config)]
    yield ""
    yield "Does not leave, by `share` in agent.yaml:" if withheld else "Nothing is held back by `share` in agent.yaml."
    for row in withheld:
        yield f"  {_last(row.name)}: {_plain(row.holds)} (share.{row.needs}: false)"
    yield ""
    yield "Never leaves: private samples, labels, gradients, names of files and classes but in a model that you share."
    if config.tracking:
        yield f"Your own trackers get your losses and metrics: {', '.join(sorted(config.tracking))} (`tracking`)."
    yield ""
    asked = list(_asked_hubs(config))
    yield "A model hub is asked, and sees your address, for:" if asked else "No model hub is asked for weights."
    yield from (f"  {line}" for line in asked)
    yield ""
    yield "Your agent refuses:"
    yield from (f"  {sentence}" for sentence in policy_words(config.policy))
    yield ""
    yield "What has left: fedafd agent sent. Every field, and how long it is kept: docs/privacy.md"


def explained_as_data(config: AgentConfig, *, fields: bool = False) -> dict[str, Any]:
    """The same for a script; without `fields` the messages that run a round are left out, as in the words."""
    named = [row for row in (*BLOBS, *MESSAGES) if fields or row in BLOBS or row.needs]
    noise = config.share.representation_noise
    return {
        "aggregator": config.aggregator,
        "leaves": [_row(row) for row in named if leaves(row, config)],
        "held_back": [_row(row) | {"by": f"share.{row.needs}"} for row in named if not leaves(row, config)],
        "representation_noise": noise,
        "epsilon_of_a_round": gaussian_epsilon(noise, num_rows=_ROWS, dim=_DIM) if noise else None,
        "differential_privacy": None if config.privacy.dp is None else config.privacy.dp.model_dump(mode="json"),
        "trackers": sorted(config.tracking),
        "weights_that_show": list(config.base_weights.named(config.kind)),
        "asks_hubs_for": list(_asked_hubs(config)),
        "refuses": list(policy_words(config.policy)),
    }


def _asked_hubs(config: AgentConfig) -> Iterator[str]:
    """Weights that are fetched unless they are in the hub's cache here: the site's own, else those that it allows."""
    own = {Modality.IMAGE: config.image_encoder, Modality.TEXT: config.text_encoder}
    for modality in config.kind.modalities:
        encoder = own[modality]
        named = None if encoder is None else encoder.pretrained
        if named is not None and hub_name(named) is not None:
            yield f"{_pinned(named)}, by {modality.value}_encoder"
    yield from (
        f"{_pinned(named)}, by base_weights" for named in config.base_weights.named(config.kind) if hub_name(named)
    )
    if any(own[modality] is None for modality in config.kind.modalities):
        yield from (
            f"{_pinned(name)}, if the federation names it (policy.pretrained)" for name in config.policy.pretrained
        )


def _pinned(name: str) -> str:
    return name if "@" in name else f"{name}, whatever its newest revision is"


def _row(row: Leaving) -> dict[str, str]:
    return {"name": _plain(row.name), "holds": _plain(row.holds), "when": _plain(row.when)}


def _budget(dp: DpConfig) -> Iterator[str]:
    """What privacy.dp promises, and what it does not."""
    yield f"  representations of all rounds together are ({dp.epsilon:g}, {dp.delta:g})-differentially private for each"
    yield "  training sample (privacy.dp): by DP-SGD, for as long as the budget lasts; a round beyond it is refused."
    yield "  Not covered: a person with several samples, which classes there are, when and whether a round is"
    yield "  delivered, what was delivered before privacy.dp was set"


def _worth(epsilon: float) -> str:
    return "no differential privacy worth the name" if epsilon > _WORTH_THE_NAME else "differentially private"


def _plain(text: str) -> str:
    return text.replace("`", "")


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")
