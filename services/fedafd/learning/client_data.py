"""A client's splits as tensors, with the frozen global features of each sample computed once per round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fedafd.algorithm.checks import check_labels, check_same_shape
from fedafd.algorithm.label_metrics import check_label_sets
from fedafd.datasets.labels import has_several
from fedafd.datasets.samples import ClientData, ImageSplit, PairSplit, Split, TextSplit
from fedafd.domain.blame import blaming
from fedafd.domain.errors import BundleError, DataError
from fedafd.domain.kinds import Modality
from fedafd.learning.feeding import gathered, resident
from fedafd.learning.images import augmented, fit_of
from fedafd.learning.public import PairTensors
from fedafd.learning.sample_encoder import SampleEncoder, encode_all, is_pooled
from fedafd.learning.tasks import LabelTask, PairTask

__all__ = ["SplitName", "SplitTensors", "Splits", "check_samples"]

SplitName = Literal["train", "val", "test"]
_FORMS = {False: "one class a sample", True: "several labels a sample"}


class SplitTensors:
    """One split, read by the local encoders. Rows of texts of a pair split are its captions, all of them.

    Rows are kept on `device` where there is room, labels and draws on the host.
    """

    def __init__(
        self, split: Split, encoders: Mapping[Modality, SampleEncoder], device: torch.device = torch.device("cpu")
    ) -> None:
        self.labels: Tensor | None = None
        self.pairs: PairTensors | None = None
        self.rows: dict[Modality, Tensor] = {}
        if isinstance(split, PairSplit):
            self.pairs = PairTensors(split, dict(encoders))
            self.pairs.keep_on(device)
            self.rows = {Modality.IMAGE: self.pairs.fixed(Modality.IMAGE), Modality.TEXT: self.pairs.all_captions()}
        elif isinstance(split, ImageSplit):
            self.rows = {Modality.IMAGE: resident(encoders[Modality.IMAGE].rows(split.images), device)}
            self.labels = torch.from_numpy(split.labels)
        elif isinstance(split, TextSplit):
            self.rows = {Modality.TEXT: resident(encoders[Modality.TEXT].rows(split.texts), device)}
            self.labels = torch.from_numpy(split.labels)
        self.count = len(split)
        self.fit = fit_of(encoders[Modality.IMAGE].config) if Modality.IMAGE in encoders else None

    def global_features(
        self, split: Split, encoders: Mapping[Modality, SampleEncoder], device: torch.device
    ) -> dict[Modality, Tensor]:
        """Unit rows of the frozen global encoders for the rows of `split`, without augmentation: once is enough.

        Pixels that both encoders want alike are those already read.
        """
        features = {}
        for modality, encoder in encoders.items():
            reads = modality is Modality.IMAGE and not is_pooled(self.rows[modality])
            same = reads and encoder.config.trainable != "head" and self.fit == fit_of(encoder.config)
            rows = self.rows[modality] if same else _rows(encoder, _samples(split, modality))
            features[modality] = torch.from_numpy(encode_all(encoder, rows, device))
        return features

    def batch(
        self, indices: Tensor, generator: torch.Generator, *, augment: bool
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """Input rows of the samples `indices`, and which rows of the split they are; pairs draw one caption each."""
        which = dict.fromkeys(self.rows, indices)
        if self.pairs is not None:
            drawn = (torch.rand(len(indices), generator=generator) * self.pairs.counts[indices]).long()
            which[Modality.TEXT] = self.pairs.starts[indices] + drawn
        rows = {modality: gathered(self.rows[modality], chosen) for modality, chosen in which.items()}
        if augment and Modality.IMAGE in rows and not is_pooled(rows[Modality.IMAGE]):
            rows[Modality.IMAGE] = augmented(rows[Modality.IMAGE], generator)
        return rows, which


class Splits:
    """Splits as tensors, each read when it is first asked for."""

    def __init__(self, data: ClientData, encoders: Mapping[Modality, SampleEncoder], device: torch.device) -> None:
        self._data, self._encoders, self._device = data, encoders, device
        self._read: dict[SplitName, SplitTensors] = {}

    def __getitem__(self, name: SplitName) -> SplitTensors:
        if name not in self._read:
            split: Split = getattr(self._data, name)
            tensors = SplitTensors(split, self._encoders, self._device)
            if tensors.labels is not None:
                # Here, on the host: no step waits for a device to say that they fit.
                _check(f"labels of {name}", tensors.labels, tensors.count, len(self._data.labels))
            self._read[name] = tensors
        return self._read[name]


def _rows(encoder: SampleEncoder, samples: Sequence[Any]) -> Tensor:
    """What a global encoder reads of samples; a text that its tokenizer cannot read is no fault of the text."""
    if encoder.modality is Modality.IMAGE:
        return encoder.rows(samples)
    with blaming(BundleError):
        return encoder.rows(samples)


def check_samples(data: ClientData, task: LabelTask | PairTask) -> None:
    """Raise DataError for data that nothing can be learned from, or that are not the task's."""
    if not len(data.train):
        raise DataError("the private data have no training sample")
    if len(data.labels) == 1:
        raise DataError("the private data have one class; telling classes apart takes two or more")
    several = None if isinstance(data.train, PairSplit) else has_several(data.train.labels)
    wanted = getattr(task, "several_labels", None)
    if several is not None and wanted is not None and several != wanted:
        raise DataError(
            f"the private data have {_FORMS[several]}, but the task wants {_FORMS[wanted]}; set task.name to"
            " one that fits, in agent.yaml or the experiment's group of clients: classification for one class,"
            " multi-label for several labels"
        )
    twice = sorted({name for name in data.labels if data.labels.count(name) > 1})
    if twice:
        raise DataError(f"the private data have more than one class called {', '.join(twice)}; names tell them apart")


def _check(name: str, labels: Tensor, count: int, limit: int) -> None:
    if labels.dim() == 1:
        check_labels(name, labels, count, limit)
        return
    check_same_shape(name, labels, "what the data say", torch.empty(count, limit))
    check_label_sets(name, labels)


def _samples(split: Split, modality: Modality) -> Sequence[Any]:
    if isinstance(split, PairSplit) and modality is Modality.TEXT:
        return [text for captions in split.captions for text in captions]
    return split.texts if isinstance(split, TextSplit) else split.images
