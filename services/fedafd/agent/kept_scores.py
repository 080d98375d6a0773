"""What a model got on each sample of a site's own splits, in a file: to compare models later on the same samples.

One .npz by model and time: an array [n] of scores by split and view (fedafd.learning.evaluation), and JSON beside them.
It stays at the site.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedafd.agent.files import disk_full_is_clear, write_atomically
from fedafd.datasets.fingerprint import DataFingerprint, label_of, splits_of
from fedafd.datasets.samples import ClientData, PairSplit, TextSplit, sample_name
from fedafd.domain.errors import DataError
from fedafd.learning.evaluation import Evaluation

__all__ = ["COMPARED_SPLITS", "KeptScores", "SplitScores", "samples_digest"]

COMPARED_SPLITS: tuple[Literal["val", "test"], ...] = ("val", "test")
_META = "meta"


@dataclass(frozen=True)
class SplitScores:
    """Of one split: which samples, and each view's metrics and scores of them."""

    samples: str
    """`samples_digest`: scores are of the same samples where it is equal."""
    views: Mapping[str, Evaluation]


@dataclass(frozen=True)
class KeptScores:
    """One file's content: by split, of those that have a sample; `about` is what the scores are of, as JSON values."""

    splits: Mapping[str, SplitScores]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        data: ClientData,
        views: Mapping[str, Mapping[str, Evaluation]],
        content: DataFingerprint | None = None,
        **about: Any,
    ) -> KeptScores:
        """Evaluations by split and view, on those splits of `data`; `content` is the fingerprint of the data."""
        splits = {name: SplitScores(samples_digest(data, name, content), view) for name, view in views.items() if view}
        return cls(splits, about)

    def to_bytes(self) -> bytes:
        """For a file."""
        arrays = {f"{s}/{v}": e.scores for s, split in self.splits.items() for v, e in split.views.items()}
        splits = {
            name: {
                "samples": split.samples,
                "metrics": {view: score.metrics for view, score in split.views.items()},
                "own": {view: score.own for view, score in split.views.items() if score.own},
            }
            for name, split in self.splits.items()
        }
        meta = json.dumps({"about": dict(self.about), "splits": splits}).encode()
        file = io.BytesIO()
        np.savez_compressed(file, **arrays, **{_META: np.frombuffer(meta, np.uint8)})  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> KeptScores:
        """The inverse. Raises DataError for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                meta = json.loads(arrays[_META].tobytes())
                return cls({name: _split(name, split, arrays) for name, split in meta["splits"].items()}, meta["about"])
        except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"not scores of a model: {error}") from None

    def write(self, path: Path) -> None:
        """Raises StorageFullError, OSError."""
        with disk_full_is_clear(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.to_bytes(), mode=0o600)

    @classmethod
    def read(cls, path: Path) -> KeptScores | None:
        """None where the file is missing or damaged; callers then go on without a comparison."""
        try:
            return cls.from_bytes(path.read_bytes())
        except (OSError, DataError):
            return None


def samples_digest(data: ClientData, name: str, content: DataFingerprint | None = None) -> str:
    """Which samples a split has, in their order: their names, texts and classes, and how their pixels are read.

    What is in their files counts as `content` knows it from the last look: no file is read for it.
    """
    split, whole = splits_of(data)[name], hashlib.sha256()
    window = None if isinstance(split, TextSplit) else getattr(split.images, "intensity_range", None)
    for known in (b"" if window is None else repr(window).encode(), b"" if content is None else content.digests[name]):
        whole.update(len(known).to_bytes(8, "little") + known)
    for index in range(len(split)):
        parts = [label_of(data, split, index) or ""]
        if isinstance(split, TextSplit):
            parts.append(split.texts[index])
        else:
            parts.append(sample_name(split, index))
            parts += split.captions[index] if isinstance(split, PairSplit) else ()
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            whole.update(len(encoded).to_bytes(8, "little") + encoded)
    return whole.hexdigest()


def _split(name: str, values: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float64]]) -> SplitScores:
    own = values.get("own", {})
    views = {
        view: Evaluation(dict(m), arrays[f"{name}/{view}"], str(own.get(view, "")))
        for view, m in values["metrics"].items()
    }
    return SplitScores(str(values["samples"]), views)
