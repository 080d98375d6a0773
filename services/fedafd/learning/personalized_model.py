"""A personalized model as its site sees it: a folder that predicts, with no service running."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from fedafd.datasets.intensity import IntensityRange
from fedafd.domain.config import FederationConfig, TaskConfig, parse_federation_config, usual_task
from fedafd.domain.errors import ConfigurationError, DataError, InvalidRequestError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.branches import ONLY_FUSED, Weights, pool_branches, weights_from_json
from fedafd.learning.building import RoomError, room_beside, within
from fedafd.learning.client_model import ENCODERS, ClientModel, Views
from fedafd.learning.inputs import ImageSample, OnBad, TextSample
from fedafd.learning.loaded_model import LoadedModel, device_named
from fedafd.learning.model_folder import PERSONALIZED_MODEL, ModelFolder, read_whole
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tasks import find_task
from fedafd.learning.tensor_fit import load_fitting

__all__ = ["AloneBranch", "Branch", "PersonalizedModel", "Prediction"]

Branch = Literal["personalized", "own", "global", "alone"]
"""What is predicted by: the whole model, the site's own encoder alone, the frozen global one alone, or the branch that
the site trained without the federation."""
Prediction = tuple[str, float]
"""A label and its probability."""

_KEPT_APART = (f"{ENCODERS}.", "alignment.")
"""Parts of a client's model that other files hold, and that only training needs."""


class AloneBranch(NamedTuple):
    """The branch of a classifier that its site trained without the federation."""

    encoder: SampleEncoder
    head: nn.Module


class PersonalizedModel(LoadedModel):
    """One client's model: local and frozen global encoders, fused, with the client's task head.

    A classifier predicts by a pool of its branches, weighed by `weights` (fedafd.learning.branches).
    """

    def __init__(
        self,
        labels: Sequence[str],
        model: ClientModel,
        frozen: dict[Modality, SampleEncoder],
        *,
        device: torch.device | None = None,
        intensity_range: IntensityRange | None = None,
        weights: Weights = ONLY_FUSED,
        by_itself: AloneBranch | None = None,
    ) -> None:
        self.kind = model.kind.value
        self.labels: tuple[str, ...] = tuple(labels)
        """Class names; empty for `pair`."""
        device = device or torch.device("cpu")
        encoders: dict[Modality, list[SampleEncoder]] = {m: [model.encoders[m], frozen[m]] for m in frozen}
        if by_itself is not None:
            encoders[Modality(self.kind)].append(by_itself.encoder)
        super().__init__(encoders, device, intensity_range)
        self._model = model.eval().to(device)
        self.weights: Weights = weights
        """Of the branches that a classifier predicts by."""
        self._alone_head = None if by_itself is None else by_itself.head.eval().to(device)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "auto", intensity_range: IntensityRange | None = None
    ) -> PersonalizedModel:
        """Load a model folder onto `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

        `intensity_range`: another window for images of more than eight bits than the one that the model was trained
        with. Raises DataError naming the file or tensor that is missing or does not fit, ConfigurationError for a
        device that is not there.
        """
        chosen = device_named(device)
        parts = read_whole(folder, _parts)
        parts["intensity_range"] = intensity_range or parts["intensity_range"]
        return cls(**parts, device=chosen)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What the model can predict or embed by."""
        return ("personalized", "own", "global", *(("alone",) if self._alone_head is not None else ()))

    @overload
    def predict(
        self, samples: Iterable[ImageSample | TextSample], *, top_k: None = None, branch: Branch = "personalized"
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, samples: Iterable[ImageSample | TextSample], *, top_k: int, branch: Branch = "personalized"
    ) -> list[list[Prediction]]: ...
    def predict(
        self,
        samples: Iterable[ImageSample | TextSample],
        *,
        top_k: int | None = None,
        branch: Branch = "personalized",
    ) -> list[Prediction] | list[list[Prediction]]:
        """The likeliest label of each image or text, with its probability; with `top_k` the likeliest ones, best first.

        Where a sample may have several labels, each has a probability of its own: take those above a half, or above
        what your use asks for, of `top_k=len(model.labels)`. No more than there are classes.

        Raises InvalidRequestError for `pair`, DataError naming the sample that cannot be read.
        """
        predictions = [
            prediction
            for _, prediction in self.each_prediction(samples, top_k=1 if top_k is None else top_k, branch=branch)
        ]
        return predictions if top_k is not None else [prediction[0] for prediction in predictions]

    def each_prediction(
        self,
        samples: Iterable[ImageSample | TextSample],
        *,
        top_k: int = 1,
        branch: Branch = "personalized",
        on_bad: OnBad | None = None,
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Place and predictions of each sample, as it comes: of an iterable of any length one batch is in memory.

        A sample that cannot be read raises DataError, or goes to `on_bad` and is left out.
        """
        if self._model.head is None:
            raise InvalidRequestError("a pair client's model embeds, it has no labels; use embed_images or embed_texts")
        if top_k < 1:
            raise InvalidRequestError(f"top_k is {top_k}; must be 1 or more")
        modality = Modality(self.kind)
        for positions, batch in self.each_batch(modality, samples, on_bad):
            with torch.inference_mode():
                odds = self._model.task.probabilities(self._logits(modality, batch, branch))
                best = odds.topk(min(top_k, len(self.labels)), dim=-1)
            rows = zip(positions, best.values.tolist(), best.indices.tolist(), strict=True)
            yield from ((n, [(self.labels[i], p) for p, i in zip(v, w, strict=True)]) for n, v, w in rows)

    def embed_images(self, images: Iterable[ImageSample]) -> NDArray[np.float32]:
        """Fused features as unit rows [n, D], float32."""
        return self._rows(Modality.IMAGE, images)

    def embed_texts(self, texts: Iterable[TextSample]) -> NDArray[np.float32]:
        """Fused features as unit rows [n, D], float32."""
        return self._rows(Modality.TEXT, texts)

    def _embedded(self, modality: Modality, batch: Sequence[Tensor]) -> Tensor:
        return torch.nn.functional.normalize(self._viewed(modality, batch, "personalized"), dim=-1)

    def _logits(self, modality: Modality, batch: Sequence[Tensor], branch: Branch) -> Tensor:
        """Of a model with labels, [B, C]."""
        head = self._model.head
        assert head is not None
        if branch == "alone":
            return self._alone(batch)
        if branch != "personalized" or self.weights == ONLY_FUSED:
            logits: Tensor = head(self._viewed(modality, batch, branch))
            return logits
        by_branch = {"alone": self._alone(batch)} if "alone" in self.weights else {}
        if set(self.weights) != {"alone"}:
            views = self._views(modality, batch)
            features = {"fused": views.fused, "local": views.local, "global": views.global_}
            by_branch |= {name: head(rows) for name, rows in features.items() if name in self.weights}
        return pool_branches(self._model.task, by_branch, self.weights)

    def _alone(self, batch: Sequence[Tensor]) -> Tensor:
        if self._alone_head is None:
            raise InvalidRequestError("this model has no branch that was trained alone; choose another branch")
        logits: Tensor = self._alone_head(self._encoders[Modality(self.kind)][2](batch[2]).vector_BD)
        return logits

    def _viewed(self, modality: Modality, batch: Sequence[Tensor], branch: Branch) -> Tensor:
        if branch not in get_args(Branch):
            raise InvalidRequestError(f"branch is {branch!r}; must be one of {', '.join(get_args(Branch))}")
        views = self._views(modality, batch)
        return {"personalized": views.fused, "own": views.local, "global": views.global_}[branch]

    def _views(self, modality: Modality, batch: Sequence[Tensor]) -> Views:
        local, frozen = self._encoders[modality][:2]
        reps = self._model.centred(modality, frozen(batch[1]).vector_BD)
        return self._model.views(modality, local(batch[0]), reps)


def _parts(folder: ModelFolder) -> dict[str, Any]:
    """Arguments of PersonalizedModel."""
    folder.need(PERSONALIZED_MODEL)
    source = str(folder.path / "config.json")
    try:
        kind = ClientKind(folder.value("kind"))
        config = parse_federation_config(folder.value("federation"), "federation")
    except (ValueError, TypeError, ConfigurationError) as error:
        raise DataError(f"{source}: {error}") from None
    labels = folder.value("labels")
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise DataError(f"{source}: labels must be class names")
    if bool(labels) is (kind is ClientKind.PAIR):
        raise DataError(f"{source}: a model of kind {kind.value} {'has no' if labels else 'needs'} labels")
    encoders = {m: _encoder(folder, "local", m, config) for m in kind.modalities}
    frozen = {m: _encoder(folder, "global", m, config) for m in kind.modalities}
    task = _task(folder, kind, source)
    tensors = folder.tensors("model.safetensors")
    room = room_beside(tensors, is_half=False)
    try:
        # What only training needs is made, too, and not stored: a few layers from D to D numbers.
        with within(room._replace(numbers=room.numbers + 8 * config.embedding_dim**2)):
            model = ClientModel(config, kind, encoders, len(labels), task)
    except RoomError as error:
        raise DataError(f"{source}: {error}") from None
    load_fitting(model, tensors, str(folder.path / "model.safetensors"), apart=_KEPT_APART)
    weights, by_itself = _pool(folder, kind, config, (task, len(labels)), source)
    return {
        "labels": labels,
        "model": model,
        "frozen": frozen,
        "intensity_range": _window(folder.described.get("intensity_range"), source),
        "weights": weights,
        "by_itself": by_itself,
    }


def _task(folder: ModelFolder, kind: ClientKind, source: str) -> Any:
    """The task that the model was trained for; a folder that is older than the names of tasks holds the usual one."""
    if "task" not in folder.described:
        return find_task(usual_task(kind), kind)
    try:
        return find_task(TaskConfig.model_validate(folder.described["task"]), kind)
    except ValidationError as error:
        raise DataError(f"{source}: task cannot be read: {error.errors()[0]['msg']}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}; install the package that brings the task") from None


def _pool(
    folder: ModelFolder, kind: ClientKind, config: FederationConfig, learned: tuple[Any, int], source: str
) -> tuple[Weights, AloneBranch | None]:
    """The weights of a classifier's branches, and the one that was trained alone, where it has a weight."""
    if "branches" not in folder.described:
        return ONLY_FUSED, None
    try:
        weights = weights_from_json(folder.described["branches"])
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None
    if kind is ClientKind.PAIR:
        raise DataError(f"{source}: a model of kind pair has no branches to weigh")
    if "alone" not in weights:
        return weights, None
    task, num_labels = learned
    head = task.make_head(config.embedding_dim, num_labels)
    load_fitting(head, folder.tensors("alone/head.safetensors"), str(folder.path / "alone" / "head.safetensors"))
    return weights, AloneBranch(_encoder(folder, "alone", kind.modalities[0], config), head)


def _encoder(folder: ModelFolder, whose: str, modality: Modality, config: FederationConfig) -> SampleEncoder:
    encoder = folder.encoder(f"{whose}/{modality.value}")
    if (encoder.modality, encoder.dim) != (modality, config.embedding_dim):
        raise DataError(
            f"{folder.path / whose / modality.value / 'config.json'}: describes a {encoder.modality.value} encoder of"
            f" {encoder.dim} dimensions; this model needs {modality.value} and {config.embedding_dim}"
        )
    return encoder


def _window(value: Any, source: str) -> IntensityRange | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(bound, int | float) for bound in value):
        raise DataError(f"{source}: intensity_range is {value!r}; must be two numbers, or null")
    return float(value[0]), float(value[1])
