"""What becomes of a client's saved state where a part of what it was made for is another today.

`CASES` is the whole policy: docs/state.md prints it, and fedafd.domain.state_fingerprint answers nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

__all__ = ["AFRESH", "CASES", "Answer", "Case", "Difference"]


AFRESH = (
    "run `fedafd agent reset` with this agent.yaml: it sets the state aside (nothing is deleted, the credential stays),"
    " and the next round starts afresh"
)
"""What a site can do about a state that cannot be used, in a message."""


class Answer(StrEnum):
    """What happens to a saved state where a part differs."""

    GO_ON = "goes on"
    ADAPT = "adapts"
    REFUSE = "refuses"


class Case(NamedTuple):
    """One way in which a part can differ, and its answer."""

    part: str
    change: str
    answer: Answer
    effect: str


CASES: Mapping[str, Case] = {
    "kind": Case("kind", "another kind of client", Answer.REFUSE, "the state has another kind of head"),
    "task": Case("task", "another one", Answer.REFUSE, "the saved head was trained for the other one"),
    "task-options": Case("task", "other options", Answer.GO_ON, "training follows the new values"),
    "classes-all": Case(
        "classes", "none of the saved classes is left", Answer.REFUSE, "nothing that the head learned has a name today"
    ),
    "classes-added": Case(
        "classes", "new ones", Answer.ADAPT, "the head gets a fresh row for each, and keeps the others as they are"
    ),
    "classes-removed": Case(
        "classes", "some are gone", Answer.GO_ON, "their rows stay: they can still be predicted, and may come back"
    ),
    "classes-moved": Case(
        "classes", "the same ones in another order", Answer.GO_ON, "labels are bound to the saved rows by name"
    ),
    "encoder-architecture": Case(
        "encoder", "another architecture", Answer.REFUSE, "the saved weights are of another encoder"
    ),
    "encoder-options": Case(
        "encoder", "other options", Answer.REFUSE, "the saved weights have the sizes of the earlier options"
    ),
    "encoder-dropout": Case("encoder", "other dropout options", Answer.ADAPT, "the new values are used from now on"),
    "encoder-pretrained": Case(
        "encoder", "other pretrained weights", Answer.REFUSE, "the saved weights started from others"
    ),
    "encoder-projection": Case("encoder", "another `projection`", Answer.REFUSE, "the saved weights have other parts"),
    "encoder-trainable": Case(
        "encoder",
        "`trainable: all` and `head` exchanged",
        Answer.ADAPT,
        "the optimizer's running averages start afresh",
    ),
    "encoder-lora": Case(
        "encoder",
        "`trainable: lora` begun or ended, or another `rank`, `alpha` or `targets`",
        Answer.REFUSE,
        "the saved weights have other parts",
    ),
    "encoder-moved": Case(
        "encoder",
        "pretrained weights of the same name in another place, or now with or without a revision",
        Answer.GO_ON,
        "the saved weights are used; nothing is read from there",
    ),
    "image-size": Case("image size", "another one", Answer.ADAPT, "images are read at the new size from now on"),
    "image-size-fixed": Case(
        "image size", "another one, with a vit encoder", Answer.REFUSE, "its saved weights are made for one size"
    ),
    "image-reading": Case(
        "image crop and interpolation",
        "another `image_crop` or `image_interpolation`",
        Answer.ADAPT,
        "images are read by the new ones from now on",
    ),
    "pixel-scale": Case(
        "image mean and deviation", "other ones", Answer.ADAPT, "pixels are scaled by the new ones from now on"
    ),
    "text-reading": Case(
        "text pooling and prefix", "another `pooling` or `prefix`", Answer.ADAPT, "texts are read by the new ones"
    ),
    "max-tokens": Case("text length", "another `max_tokens`", Answer.ADAPT, "texts are cut at the new length"),
    "max-tokens-fixed": Case(
        "text length",
        "a `max_tokens` above the encoder's `max_position_embeddings`",
        Answer.REFUSE,
        "its saved weights have no place for longer texts",
    ),
    "tokenizer": Case(
        "tokenizer", "texts are cut into words in another way", Answer.GO_ON, "the saved tokenizer is used"
    ),
    "words": Case(
        "words",
        "the share of your texts' words that the saved vocabulary lacks grew by 10 points or more",
        Answer.GO_ON,
        "all of them are read as one unknown word, with a warning; starting afresh would learn them",
    ),
    "vocabulary": Case(
        "vocabulary", "the federation's `client.vocabulary`", Answer.GO_ON, "the saved vocabulary is used"
    ),
    "embedding-dim": Case(
        "embedding_dim", "another one", Answer.REFUSE, "every saved weight has the earlier dimension"
    ),
    "fusion-fresh": Case(
        "fusion", "switched on, or of another `reduction` or `inner_norm`", Answer.ADAPT, "the fusion starts afresh"
    ),
    "fusion-off": Case("fusion", "switched off", Answer.ADAPT, "the saved fusion is left out of the state"),
    "fusion-mode": Case("fusion", "`vector` and `tokens` exchanged", Answer.GO_ON, "the saved fusion serves both"),
    "centring": Case("centring", "switched", Answer.ADAPT, "features are centred as the federation says now"),
    "averaging-on": Case(
        "averaging",
        "the federation began to average weights",
        Answer.REFUSE,
        "only weights that started from the same can be averaged",
    ),
    "averaging-off": Case(
        "averaging", "the federation ceased to average weights", Answer.GO_ON, "the saved weights go on alone"
    ),
    "optimizer": Case("optimizer", "another one", Answer.ADAPT, "its running averages start afresh"),
    "preset": Case("preset", "another one", Answer.GO_ON, "training follows the new values"),
    "strategy": Case("strategy", "another one", Answer.GO_ON, "training follows the new values"),
    "adapter": Case("data adapter", "another one", Answer.GO_ON, "training goes on with what it reads"),
    "data-options": Case("data options", "other ones", Answer.GO_ON, "training goes on with what they give"),
    "partition": Case("partition", "another share", Answer.GO_ON, "training goes on with the new share"),
}
"""Every difference that there is, by its code."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A part that is another today. It may name classes of the site: nothing of it but `case` may leave the site."""

    case: str
    part: str
    saved: str
    today: str
    answer: Answer
    message: str
