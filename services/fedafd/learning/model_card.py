"""Model cards in the hub's format: YAML of what a machine reads, then what the model is, does and was measured to do.

A card that travels says nothing of a site's data; the one that stays at the site has its numbers, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedafd.domain.config import FederationConfig, TaskConfig, usual_task
from fedafd.domain.counted import counted
from fedafd.domain.kinds import ClientKind
from fedafd.learning.tasks import find_task

__all__ = ["SiteFacts", "global_card", "personalized_card"]

_PAPER = "arxiv:2603.04890"
_TASKS = {
    ClientKind.IMAGE: ("image-classification", "Image classification"),
    ClientKind.TEXT: ("text-classification", "Text classification"),
    ClientKind.PAIR: ("feature-extraction", "Image-text retrieval"),
}
_VIEWS = {
    "federated": "personalized model",
    "fused": "fused feature alone",
    "local": "own encoder alone",
    "global": "frozen global encoder alone",
    "alone": "the same encoder trained without the federation",
}
_METRIC_TYPES = {"lrap": "label_ranking_average_precision", "map": "mean_average_precision", "micro_f1": "f1"}
_SHOWN_CLASSES = 200
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|#!~$"})


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What only the site may know of its data."""

    samples: Mapping[str, int]
    """Number of samples by split."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Training samples by class; empty for pairs."""


def personalized_card(
    config: FederationConfig,
    kind: ClientKind,
    labels: Iterable[str],
    *,
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
    facts: SiteFacts | None = None,
    note: str = "",
    task: TaskConfig | None = None,
) -> str:
    """The card of a client's model. `facts` only where it stays at its site; `note`: which of its models it is.

    `task`: what it was trained for; None for the usual one of its kind.
    """
    names = list(labels)
    about = (
        f"One client's {kind.value} model of the federation {_plain(config.name)}: its own encoder and the federation's"
        f" frozen one, fused into a common space of {config.embedding_dim} dimensions, trained by FedAFD (arXiv"
        " 2603.04890). It fits the data that it was trained on, its site's."
    )
    parts = [
        f"# Personalized {kind.value} model of federation {_plain(config.name)}\n\n{about}",
        f"## Which model this is\n\n{_plain(note)}" if note else "",
        f"## Use\n\n{_usage('PersonalizedModel', _CODE[kind])}",
        _learned(kind, task),
        _classes(names, facts),
        _data(facts),
        _results("the site's own test split", metrics),
        _lineage(lineage),
    ]
    tag, task_name = _TASKS[kind]
    head = _front_matter(
        name=f"{config.name}-personalized-{kind.value}",
        task=tag,
        task_name=task_name
        if task is None or task == usual_task(kind)
        else f"{kind.value.capitalize()} {_task_title(task, kind)}",
        tags=["personalized", kind.value],
        dataset=("private", "the site's own data"),
        metrics=metrics,
    )
    return _joined(head, parts)


def global_card(config: FederationConfig, *, metrics: Mapping[str, float], lineage: Mapping[str, Any]) -> str:
    """The card of a global model version."""
    about = (
        f"Image and text encoders of the federation {_plain(config.name)} into a common space of"
        f" {config.embedding_dim} dimensions, trained by FedAFD (arXiv 2603.04890) on a public set and on what the"
        " sites' encoders make of it."
    )
    parts = [
        f"# Global model of federation {_plain(config.name)}\n\n{about}",
        f"## Use\n\n{_usage('GlobalModel', _CODE[ClientKind.PAIR])}",
        _INTENDED,
        _results("the public test pairs", metrics),
        _LIMITS,
        _configuration(config),
        _lineage(lineage),
    ]
    task, task_name = _TASKS[ClientKind.PAIR]
    head = _front_matter(
        name=f"{config.name}-global",
        task=task,
        task_name=task_name,
        tags=["global", "image", "text"],
        dataset=("public-set", "public test pairs"),
        metrics=metrics,
    )
    return _joined(head, parts)


_INTENDED = """## Intended use

Finding images by texts and texts by images that are like those of the federation's public set; features for models of
one's own; the start of the federation's next round. A site's own task is what its personalized model is for. It was not
made to decide about people, and nothing here says that it can."""
_LIMITS = """## Limits

It was measured on the public test pairs alone: on other images, languages or topics its recall is not known. What it
knows of words is what the public set has. The sites' private data reached it only through their representations of the
public set; what can be learned of them from a model is told in docs/privacy.md."""


def _configuration(config: FederationConfig) -> str:
    """What is not as by default. As JSON, of which no line can end the block."""
    values = json.dumps(config.model_dump(mode="json", exclude_defaults=True), indent=2, sort_keys=True)
    return (
        f"## Configuration\n\nOf the federation in that round, where it is not the default:\n\n```json\n{values}\n```"
    )


_IMAGES = 'images = [Image.new("RGB", (64, 64), "red")]  # or paths: ["photo.jpg"]'
_PAIRS = f"""{_IMAGES}
texts = ["a small red circle", "two blue squares"]
likeness = model.embed_images(images) @ model.embed_texts(texts).T  # [images, texts], -1 to 1"""
_CODE = {
    ClientKind.IMAGE: f"{_IMAGES}\nprint(model.predict(images, top_k=3))  # labels with their probabilities",
    ClientKind.TEXT: 'print(model.predict(["a text to sort"], top_k=3))  # labels with their probabilities',
    ClientKind.PAIR: _PAIRS,
}


def _usage(loader: str, code: str) -> str:
    pillow = "from PIL import Image\n\n" if "Image." in code else ""
    return (
        "`pip install 'fedafd[learning]'`; no service and no network is needed.\n\n```python\n"
        f'{pillow}from fedafd import {loader}\n\nmodel = {loader}.from_pretrained(".")  # this folder\n{code}\n```'
    )


def _front_matter(
    *,
    name: str,
    task: str,
    task_name: str,
    tags: list[str],
    dataset: tuple[str, str],
    metrics: Mapping[str, float],
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=task,
            task_name=task_name,
            metric_type=kind,
            metric_name=f"{metric} ({_described(metric)})",
            metric_value=round(value, 4),
            dataset_type=dataset[0],
            dataset_name=dataset[1],
            dataset_split="test",
        )
        for metric, value in sorted(metrics.items())
        if (kind := _metric_type(metric)) is not None
    ]
    data = ModelCardData(
        library_name="fedafd",
        license="other",
        license_name="as-agreed-in-the-federation",
        pipeline_tag=task,
        tags=["federated-learning", "multimodal", *tags, _PAPER],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _metric_type(metric: str) -> str | None:
    """The hub's name of a metric; None for values that are no result, such as a gate's offset or an error."""
    last = metric.rpartition("/")[2]
    if metric.startswith("gate_offset/") or last.endswith("standard_error"):
        return None
    if last in ("acc1", "acc5", "own_acc1"):
        return "accuracy"
    if last == "rsum" or last.startswith(("i2t_r", "t2i_r")):
        return "recall"
    return _METRIC_TYPES.get(last, last)


def _described(metric: str) -> str:
    view, _, last = metric.rpartition("/")
    unit = "sum of six, 0 to 600" if last.endswith("rsum") else "percent"
    return f"{_VIEWS[view]}, {unit}" if view in _VIEWS else unit


def _task_title(task: TaskConfig, kind: ClientKind) -> str:
    title: str = find_task(task, kind).title
    return title


def _learned(kind: ClientKind, task: TaskConfig | None) -> str:
    """Of a task that is not the usual one."""
    if task is None or task == usual_task(kind):
        return ""
    its_task = find_task(task, kind)
    with_options = f" with {_plain(dict(task.options))}" if task.options else ""
    text = (
        f"Task `{_plain(task.name)}`{with_options}: {_plain(its_task.title)}, chosen by {_plain(its_task.metric.name)}."
    )
    if getattr(its_task, "several_labels", False):
        text += " A sample may have several labels, or none: each has a probability of its own."
    return f"## Task\n\n{text}"


def _classes(names: list[str], facts: SiteFacts | None) -> str:
    if not names:
        return ""
    counts = {} if facts is None else facts.classes
    trained = f", with {counted(sum(counts.values()), 'training sample')}" if counts else ""
    rows = [f"- {_plain(name)}{f': {counts[name]}' if name in counts else ''}" for name in names[:_SHOWN_CLASSES]]
    if (more := len(names) - _SHOWN_CLASSES) > 0:
        rows.append(f"- and {more} more")
    return f"## Classes\n\n{counted(len(names), 'class', 'classes')}{trained}:\n\n" + "\n".join(rows)


def _data(facts: SiteFacts | None) -> str:
    if facts is None:
        return ""
    rows = "\n".join(f"- {split}: {counted(count, 'sample')}" for split, count in facts.samples.items())
    return f"## Data\n\nThis part is the site's own; a model that is shared does not hold it.\n\n{rows}"


def _results(measured_on: str, metrics: Mapping[str, float]) -> str:
    reported = {name: value for name, value in sorted(metrics.items()) if _metric_type(name) is not None}
    if not reported:
        return ""
    errors = {name: metrics.get(f"{name}_standard_error") for name in reported}
    shown = {name: "" if error is None else f" ± {error:.2f}" for name, error in errors.items()}
    rows = "\n".join(f"| {_plain(name)} | {value:.2f}{shown[name]} |" for name, value in reported.items())
    about = " ± one standard error over the test samples." if any(shown.values()) else ""
    return f"## Metrics\n\nOn {measured_on}, in percent.{about}\n\n| metric | value |\n|---|---|\n{rows}"


def _lineage(lineage: Mapping[str, Any]) -> str:
    facts = "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in lineage.items())
    return f"## Lineage\n\n{facts}" if facts else ""


def _plain(value: object) -> str:
    """Any name as text of one line that Markdown shows as it is."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text.translate(_SPECIAL)


def _joined(head: str, parts: Iterable[str]) -> str:
    return f"---\n{head}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"
