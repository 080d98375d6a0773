"""The site's model for the page, tried on one sample; for pairs, a caption that finds pictures of val and test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedafd.agent.site_model import SiteModel
from fedafd.agent.ui.jobs import Job, JobView
from fedafd.agent.ui.own_look import OwnLook
from fedafd.agent.ui.pictures import as_data_url, small_png
from fedafd.datasets.decoding import ImageArray, decode_image
from fedafd.datasets.report import Progress
from fedafd.datasets.samples import PairSplit
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import DataError, InvalidRequestError
from fedafd.domain.kinds import ClientKind, Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedafd.learning.personalized_model import PersonalizedModel, Prediction

__all__ = ["Guess", "ModelView", "OwnModel", "PictureHit"]

_TOP = 5
_HITS = 12
_MOST_CHARACTERS = 100_000


@dataclass(frozen=True)
class ModelView:
    """What the page shows of the model before it is tried."""

    folder: Path | None
    """Where `model` leads to; None before the first delivered round."""
    kind: ClientKind
    round_number: int | None
    labels: tuple[str, ...]
    searchable: int | None
    """Pictures that a caption is looked for among; None until they are read."""
    unreadable: int
    job: JobView


@dataclass(frozen=True)
class Guess:
    """What the model says of one sample."""

    name: str
    picture: str
    """As the model gets it, a data URL; empty for a text."""
    by_branch: dict[str, list[Prediction]]
    """Best first, by branch: personalized, own, global, and alone where the model has it."""


@dataclass(frozen=True)
class PictureHit:
    """One picture that a caption found."""

    path: str
    """Of the page's picture, without what all its paths begin with."""
    split: str
    caption: str
    likeness: float


@dataclass(frozen=True)
class _Pictures:
    """All pictures of val and test as the model sees them."""

    read_from: tuple[Path | None, str]
    sample_ids: list[tuple[str, int]]
    rows: NDArray[np.float32]
    unreadable: int
    splits: dict[str, PairSplit]


class OwnModel:
    """Loads the model when it is first tried, and anew after a round."""

    def __init__(self, config: AgentConfig, look: OwnLook) -> None:
        self._config, self._look = config, look
        self._site = SiteModel(config.state_dir)
        self._loaded: tuple[Path, PersonalizedModel] | None = None
        self._lock = threading.Lock()
        self._job: Job[_Pictures] = Job("read the pictures")

    def view(self) -> ModelView:
        """What there is. Raises DataError for a model folder that is not whole."""
        folder, described = self._described()
        kind = self._config.kind
        lineage = described.get("lineage")
        number = lineage.get("round") if isinstance(lineage, dict) else None
        pictures = self._pictures() if kind is ClientKind.PAIR and folder is not None else None
        return ModelView(
            folder=folder,
            kind=kind,
            round_number=number if isinstance(number, int) else None,
            labels=tuple(map(str, described.get("labels", ()))),
            searchable=None if pictures is None else len(pictures.sample_ids),
            unreadable=0 if pictures is None else pictures.unreadable,
            job=self._job.view(),
        )

    def guess_picture(self, content: bytes, name: str) -> Guess:
        """The likeliest labels of a picture's file. Raises DataError, InvalidRequestError."""
        if not content:
            raise InvalidRequestError("choose a picture first" if not name else f"{name}: is empty")
        model = self._model()
        picture = decode_image(content, name, intensity_range=model.intensity_range)
        return Guess(name, as_data_url(small_png(picture)), self._by_branch(model, picture))

    def guess_text(self, text: str) -> Guess:
        """The likeliest labels of a text. Raises DataError, InvalidRequestError."""
        return Guess(_given(text, "text"), "", self._by_branch(self._model(), text))

    def read_pictures(self) -> bool:
        """Make the pictures of val and test searchable; False if that is being done already."""
        return self._job.start(self._read_pictures)

    def wait(self, seconds: float) -> None:
        """Until the pictures that are being read are, but not longer."""
        self._job.wait(seconds)

    def search(self, caption: str) -> list[PictureHit]:
        """The pictures of val and test that match best, best first. Raises DataError, InvalidRequestError."""
        from fedafd.learning.search_index import nearest

        caption, pictures = _given(caption, "caption"), self._pictures()
        if pictures is None:
            raise InvalidRequestError(
                "let the model read the pictures first; a new model or new data must be read anew"
            )
        (row,) = self._model().embed_texts([caption])
        names = [f"{split}/{index}" for split, index in pictures.sample_ids]
        results = []
        for name, likeness in nearest(row, names, pictures.rows, _HITS):
            split, _, index = name.partition("/")
            captions = pictures.splits[split].captions[int(index)]
            results.append(PictureHit(f"pictures/{name}.png", split, captions[0] if captions else "", likeness))
        return results

    def picture(self, split: str, index: int) -> bytes | None:
        """One of the pictures that were read, small; None if there is none. Raises DataError."""
        pictures = self._job.result
        if pictures is None or split not in pictures.splits or not 0 <= index < len(pictures.splits[split]):
            return None
        return small_png(pictures.splits[split].images[index])

    def stop(self) -> None:
        """End reading."""
        self._job.stop()

    def _described(self) -> tuple[Path | None, dict[str, Any]]:
        from fedafd.learning.model_folder import read_whole

        if self._site.current() is None:
            return None, {}
        return read_whole(self._config.state_dir / "model", lambda folder: (folder.path, folder.described))

    def _model(self) -> PersonalizedModel:
        """The model of now. Raises DataError if there is none, or its folder is not whole."""
        from fedafd.learning.personalized_model import PersonalizedModel

        with self._lock:
            while True:
                folder = self._site.current()
                if folder is None:
                    raise DataError("there is no model yet; the agent makes one after each round that it delivered")
                if self._loaded is not None and self._loaded[0] == folder:
                    return self._loaded[1]
                try:
                    # Beside an agent that trains, an accelerator's memory is the agent's.
                    self._loaded = (folder, PersonalizedModel.from_pretrained(folder, device="cpu"))
                except DataError:
                    if self._site.current() == folder:
                        raise

    def _by_branch(self, model: PersonalizedModel, sample: ImageArray | str) -> dict[str, list[Prediction]]:
        return {branch: model.predict([sample], top_k=_TOP, branch=branch)[0] for branch in model.branches}

    def _pictures(self) -> _Pictures | None:
        pictures = self._job.result
        fits = pictures is not None and pictures.read_from == (self._site.current(), self._look.stamp())
        return pictures if fits else None

    def _read_pictures(self, progress: Progress) -> _Pictures:
        import numpy as np

        read_from = (self._site.current(), self._look.stamp())
        model, data = self._model(), self._look.data()
        splits = {name: split for name in ("val", "test") if isinstance(split := getattr(data, name), PairSplit)}
        total = sum(map(len, splits.values()))
        sample_ids: list[tuple[str, int]] = []
        bad: list[tuple[str, int]] = []

        def readable() -> Iterator[ImageArray]:
            for name, split in splits.items():
                for index in range(len(split)):
                    progress(len(sample_ids) + len(bad), total)
                    try:
                        picture = split.images[index]
                    except DataError:
                        bad.append((name, index))
                        continue
                    sample_ids.append((name, index))
                    yield picture

        rows = [row for _, row in model.each_embedded(Modality.IMAGE, readable())]
        matrix = np.stack(rows) if rows else np.zeros((0, model.dim), dtype=np.float32)
        return _Pictures(read_from, sample_ids, matrix, len(bad), splits)


def _given(text: str, what: str) -> str:
    if not text.strip():
        raise InvalidRequestError(f"type a {what} first")
    if len(text) > _MOST_CHARACTERS:
        raise InvalidRequestError(f"the {what} has {len(text)} characters; {_MOST_CHARACTERS} are the most here")
    return text
