"""What a client's saved state was made for, by parts, and how that differs from what it would be made for today."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fedafd.domain.config import (
    AveragingMode,
    DataConfig,
    EncoderConfig,
    FusionConfig,
    FusionMode,
    LoraConfig,
    TaskConfig,
    usual_task,
)
from fedafd.domain.errors import StateUnusableError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.hub_names import hub_name
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.state_cases import AFRESH, CASES, Answer, Difference

__all__ = ["StateFingerprint", "compare", "refuse_mismatch", "rows_by_name", "tokenizer_rules"]

_SHOWN_NAMES = 10
_MORE_UNKNOWN = 10
"""Percentage points."""
_FIXED_SIDE = ("vit",)
"""Architectures whose weights are made for one image size."""


class StateFingerprint(BaseModel):
    """What a state was made for, or would be made for today. None: not known; what is not known is not compared."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: ClientKind | None = None
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of the head's rows; empty for pairs."""
    task: TaskConfig | None = None
    """In a state that is older than the names of tasks: the usual task of its kind."""
    image_encoder: EncoderConfig | None = None
    text_encoder: EncoderConfig | None = None
    """As configured: by agent.yaml, else by the federation."""
    encoders_as_built: bool = False
    """Whether the encoders say what was built, not what was configured: older states kept no more than that."""
    tokenizer: str | None = None
    """`tokenizer_rules` of an encoder that starts from fresh weights."""
    vocabulary: str | None = None
    unknown_words: int | None = None
    """Percent of the words of the training texts that the tokenizer does not know."""
    embedding_dim: int | None = None
    fusion: FusionConfig | None = None
    centre: bool | None = None
    averaging: AveragingMode | None = None
    optimizer: str | None = None
    preset: str | None = None
    strategy: str | None = None
    data: DataConfig | None = None
    """Without its path: a folder may move."""

    def over(self, earlier: StateFingerprint) -> StateFingerprint:
        """What is known of this one, else of the earlier one."""
        known = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return earlier.model_copy(update=known)

    @classmethod
    def of_state(cls, meta: Mapping[str, Any]) -> StateFingerprint:
        """What a saved state says of itself. A field that this version does not understand counts as not known."""
        if "fingerprint" not in meta:
            return _of_before(meta)
        given = dict(meta["fingerprint"])
        while True:
            try:
                return cls.model_validate(given)
            except ValidationError as error:
                for item in error.errors():
                    given.pop(str(item["loc"][0]), None)

    def as_json(self) -> dict[str, Any]:
        """For a state's meta."""
        return self.model_dump(mode="json", exclude_none=True)


def compare(saved: StateFingerprint, today: StateFingerprint) -> list[Difference]:
    """Where a saved state was made for something else than today's, most important part first."""
    return [*_outside(saved, today), *_encoders(saved, today), *_training(saved, today), *_data(saved, today)]


def refuse_mismatch(differences: Sequence[Difference]) -> None:
    """Raise StateUnusableError naming every difference that the state cannot follow, and what to do."""
    refused = [difference for difference in differences if difference.answer is Answer.REFUSE]
    if refused:
        said = "; ".join(difference.message for difference in refused)
        raise StateUnusableError(
            f"the saved state does not fit: {said}. Undo the change, or {AFRESH}",
            cases=[difference.case for difference in refused],
        )


def rows_by_name(*lists: Sequence[str]) -> list[dict[str, int]]:
    """Row of each class by its name, of several lists of classes that are compared.

    Names are in the normal form NFC, as file systems differ in it; as they are where it makes two of a list the same.
    """
    normal = [[unicodedata.normalize("NFC", name) for name in names] for names in lists]
    distinct = all(len(set(names)) == len(names) for names in normal)
    return [{name: row for row, name in enumerate(names)} for names in (normal if distinct else lists)]


def tokenizer_rules(tokenizer: str) -> str:
    """Hash of how a tokenizer (as JSON) cuts texts into words, whatever words it knows."""
    rules = json.loads(tokenizer)
    rules.get("model", {}).pop("vocab", None)
    return sha256_of(json.dumps(rules, sort_keys=True).encode())[:16]


def _of_before(meta: Mapping[str, Any]) -> StateFingerprint:
    encoders = {f"{name}_encoder": EncoderConfig.model_validate(value) for name, value in meta["encoders"].items()}
    tokenizer = meta.get("tokenizer")
    return StateFingerprint(
        classes=tuple(meta["labels"]),
        encoders_as_built=True,
        tokenizer=None if tokenizer is None else tokenizer_rules(tokenizer),
        **encoders,
    )


def _difference(case: str, saved: Any, today: Any, effect: str | None = None) -> Difference:
    part, _, answer, usual = CASES[case]
    before, now = _shown(saved), _shown(today)
    message = f"{part}: was {before}, is {now}: {effect or usual}"
    return Difference(case=case, part=part, saved=before, today=now, answer=answer, message=message)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        names = [str(item) for item in value]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        return ", ".join(names[:_SHOWN_NAMES]) + more
    return str(getattr(value, "value", value))


def _outside(saved: StateFingerprint, today: StateFingerprint) -> Iterator[Difference]:
    if saved.kind is not None and today.kind is not None and saved.kind is not today.kind:
        yield _difference("kind", saved.kind, today.kind)
        return
    kind = today.kind or saved.kind
    known = saved.task is not None or saved.classes is not None
    if known and today.task is not None and kind is not None:
        yield from _task(saved.task or usual_task(kind), today.task)
    if saved.classes is not None and today.classes is not None:
        yield from _classes(saved.classes, today.classes)


def _task(saved: TaskConfig, today: TaskConfig) -> Iterator[Difference]:
    if saved.name != today.name:
        yield _difference("task", saved.name, today.name)
    elif saved.options != today.options:
        yield _difference("task-options", *(json.dumps(task.options, sort_keys=True) for task in (saved, today)))


def _classes(saved: tuple[str, ...], today: tuple[str, ...]) -> Iterator[Difference]:
    if bool(saved) is not bool(today):
        yield _difference("kind", "pairs" if not saved else "classes", "pairs" if not today else "classes")
        return
    before, now = rows_by_name(saved, today)
    added = [name for name in now if name not in before]
    removed = [name for name in before if name not in now]
    if added and len(added) == len(now):
        effect = f"added {_shown(added)}; removed {_shown(removed)}; {CASES['classes-all'].effect}"
        yield _difference("classes-all", saved, today, effect)
        return
    if added:
        effect = f"added {_shown(added)}: {CASES['classes-added'].effect}"
        yield _difference("classes-added", saved, today, effect)
    if removed:
        effect = f"no longer there: {_shown(removed)}: {CASES['classes-removed'].effect}"
        yield _difference("classes-removed", saved, today, effect)
    if not added and not removed and list(before) != list(now):
        yield _difference("classes-moved", saved, today)


def _encoders(saved: StateFingerprint, today: StateFingerprint) -> Iterator[Difference]:
    for modality in Modality:
        before: EncoderConfig | None = getattr(saved, f"{modality.value}_encoder")
        now: EncoderConfig | None = getattr(today, f"{modality.value}_encoder")
        if before is not None and now is not None:
            if saved.encoders_as_built and before.architecture == now.architecture:
                before = _as_configured(before, now)
            yield from _encoder(modality, before, now)


def _as_configured(built: EncoderConfig, today: EncoderConfig) -> EncoderConfig:
    """What is known of the configuration of an encoder that was built: where it says nothing, it is taken as today's.

    It knows no pretrained weights any more, and leaves out options of a value that is usual.
    """
    known = {key: built.options.get(key, value) for key, value in today.options.items()}
    same = {
        name: getattr(today, name)
        for name in ("pretrained", "image_mean", "image_std", "image_crop", "image_interpolation", "pooling", "prefix")
    }
    return built.model_copy(update=same | {"options": known})


def _encoder(modality: Modality, saved: EncoderConfig, today: EncoderConfig) -> Iterator[Difference]:
    name = modality.value
    if saved.architecture != today.architecture:
        yield _difference("encoder-architecture", f"{name} {saved.architecture}", f"{name} {today.architecture}")
        return
    if saved.pretrained != today.pretrained:
        moved = saved.pretrained is not None and today.pretrained is not None and _same_name(saved, today)
        yield _difference("encoder-moved" if moved else "encoder-pretrained", saved.pretrained, today.pretrained)
    if saved.pretrained is None and today.pretrained is None:
        yield from _options(saved.options, today.options)
    if saved.projection != today.projection:
        yield _difference("encoder-projection", saved.projection, today.projection)
    adapters = [encoder.adapter for encoder in (saved, today)]
    if None not in adapters:
        yield from _adapter(*adapters)  # type: ignore[arg-type]
    elif adapters != [None, None]:
        yield _difference("encoder-lora", saved.trainable, today.trainable)
    elif saved.trainable != today.trainable:
        yield _difference("encoder-trainable", saved.trainable, today.trainable)
    if modality is Modality.IMAGE:
        if saved.image_size != today.image_size:
            fixed = today.architecture in _FIXED_SIDE
            yield _difference("image-size-fixed" if fixed else "image-size", saved.image_size, today.image_size)
        cuts = [(encoder.image_crop, encoder.image_interpolation) for encoder in (saved, today)]
        if cuts[0] != cuts[1]:
            yield _difference("image-reading", cuts[0], cuts[1])
        scales = [(encoder.image_mean, encoder.image_std) for encoder in (saved, today)]
        if scales[0] != scales[1]:
            yield _difference("pixel-scale", scales[0], scales[1])
        return
    if (saved.pooling, saved.prefix) != (today.pooling, today.prefix):
        yield _difference("text-reading", (saved.pooling, saved.prefix), (today.pooling, today.prefix))
    if saved.max_tokens != today.max_tokens:
        limit = today.options.get("max_position_embeddings") if today.pretrained is None else None
        fixed = isinstance(limit, int) and today.max_tokens > limit
        yield _difference("max-tokens-fixed" if fixed else "max-tokens", saved.max_tokens, today.max_tokens)


def _adapter(saved: LoraConfig, today: LoraConfig) -> Iterator[Difference]:
    before, now = ((adapter.rank, adapter.alpha, adapter.targets) for adapter in (saved, today))
    if before != now:
        yield _difference("encoder-lora", *(f"rank {r}, alpha {a}, targets {_shown(t)}" for r, a, t in (before, now)))
    elif saved.dropout != today.dropout:
        yield _difference("encoder-dropout", f"lora.dropout {saved.dropout:g}", f"lora.dropout {today.dropout:g}")


def _options(saved: Mapping[str, Any], today: Mapping[str, Any]) -> Iterator[Difference]:
    changed = [key for key in sorted({*saved, *today}) if saved.get(key) != today.get(key)]
    # What is dropped in training is no weight: it may change at any time.
    for case, keys in (
        ("encoder-options", [key for key in changed if "drop" not in key]),
        ("encoder-dropout", [key for key in changed if "drop" in key]),
    ):
        if keys:
            before, now = ([f"{key} {_shown(values.get(key))}" for key in keys] for values in (saved, today))
            yield _difference(case, before, now)


def _same_name(saved: EncoderConfig, today: EncoderConfig) -> bool:
    """Whether they are weights of one name, wherever they lie; two revisions of it are others."""
    before, now = (hub_name(encoder.pretrained or "") for encoder in (saved, today))
    if None not in (before and before.revision, now and now.revision):
        return False
    paths = ((hub.id if hub else encoder.pretrained or "") for hub, encoder in ((before, saved), (now, today)))
    return len({PurePath(path).name for path in paths}) == 1


def _training(saved: StateFingerprint, today: StateFingerprint) -> Iterator[Difference]:
    for case, name in (
        ("tokenizer", "tokenizer"),
        ("vocabulary", "vocabulary"),
        ("embedding-dim", "embedding_dim"),
        ("centring", "centre"),
        ("optimizer", "optimizer"),
        ("preset", "preset"),
        ("strategy", "strategy"),
    ):
        before, now = getattr(saved, name), getattr(today, name)
        if before is not None and now is not None and before != now:
            yield _difference(case, before, now)
    lacking = (saved.unknown_words, today.unknown_words)
    if lacking[0] is not None and lacking[1] is not None and lacking[1] - lacking[0] >= _MORE_UNKNOWN:
        yield _difference("words", *(f"{percent} %" for percent in lacking))
    if saved.averaging is not None and today.averaging is not None and saved.averaging is not today.averaging:
        begins = saved.averaging is AveragingMode.OFF
        yield _difference("averaging-on" if begins else "averaging-off", saved.averaging, today.averaging)
    if saved.fusion is not None and today.fusion is not None:
        yield from _fusion(saved.fusion, today.fusion)


def _fusion(saved: FusionConfig, today: FusionConfig) -> Iterator[Difference]:
    learned = (FusionMode.VECTOR, FusionMode.TOKENS)
    before, now = ((fusion.reduction, fusion.inner_norm) for fusion in (saved, today))
    if today.mode not in learned:
        if saved.mode in learned:
            yield _difference("fusion-off", saved.mode, today.mode)
    elif saved.mode not in learned:
        yield _difference("fusion-fresh", saved.mode, today.mode)
    elif before != now:
        words = [f"reduction {reduction}, inner_norm {norm}" for reduction, norm in (before, now)]
        yield _difference("fusion-fresh", *words)
    elif saved.mode is not today.mode:
        yield _difference("fusion-mode", saved.mode, today.mode)


def _data(saved: StateFingerprint, today: StateFingerprint) -> Iterator[Difference]:
    if saved.data is not None and today.data is not None:
        if saved.data.adapter != today.data.adapter:
            yield _difference("adapter", saved.data.adapter, today.data.adapter)
        elif saved.data.options != today.data.options:
            yield _difference("data-options", saved.data.options, today.data.options)
        if saved.data.partition != today.data.partition:
            yield _difference("partition", saved.data.partition, today.data.partition)
