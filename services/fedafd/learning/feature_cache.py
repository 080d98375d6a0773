"""Features of frozen backbones, computed once: kept in memory and on disk by what they are made of.

A feature is the backbone's pooled output, [C] for each sample. Its name is the hash of the backbone's weights and
settings and of the input rows themselves, so that another picture, another tokenizer or other weights is another name.
Blocks are kept one by one: what is interrupted goes on behind the last whole block, and processes that share a folder
share the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedafd.domain.kinds import Modality
from fedafd.learning.feeding import batches_worked
from fedafd.learning.tensor_bytes import bytes_of
from fedafd.telemetry.logging import get_logger

if TYPE_CHECKING:
    from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["FeatureCache", "backbone_digest", "features_of", "keep_features", "watched"]

Progress = Callable[[float], None]
_BLOCK = 1024
_LOCKS = ".locks"
_LOCK_FILES = 64
_MEMORY = 1 << 30
_DISK = 4 << 30
_log = get_logger(__name__)


class FeatureCache:
    """Blocks of features by name; `folder` None keeps them in memory alone."""

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = _DISK, memory_bytes: int = _MEMORY) -> None:
        """At most `limit_bytes` are kept on disk and `memory_bytes` in memory; what was used longest ago goes first."""
        self.folder, self._limit, self._memory = folder, limit_bytes, memory_bytes
        self._in_memory: OrderedDict[str, Tensor] = OrderedDict()

    def features(self, encoder: SampleEncoder, rows: Tensor) -> Tensor:
        """Pooled features [n, C], float32 on the host, of rows that the encoder's `read` made."""
        digest, report = backbone_digest(encoder), _watching.get()
        starts = range(0, len(rows), _BLOCK)
        names = [
            _digest(digest.encode(), str(tuple(block.shape)).encode(), bytes_of(block)) for block in rows.split(_BLOCK)
        ]
        blocks: dict[int, Tensor] = {}
        # What another process computes right now is asked for again behind everything else.
        for patient in (False, True):
            for start, name in zip(starts, names, strict=True):
                if start in blocks:
                    continue
                report(min(1.0, len(blocks) * _BLOCK / len(rows)))
                features = self._kept_features(name)
                if features is None:
                    features = self._computed_once(encoder, rows[start : start + _BLOCK], name, patient=patient)
                if features is not None:
                    self._hold(name, features)
                    blocks[start] = features
        if not blocks:
            return torch.zeros(0, encoder.network.projection.in_features)
        return torch.cat([blocks[start] for start in starts])

    def _computed_once(self, encoder: SampleEncoder, block: Tensor, name: str, *, patient: bool) -> Tensor | None:
        """The features of a block, kept; None where another process makes them and this one is not `patient`."""
        lock = self._lock(name)
        if lock is None:
            return self._computed_and_kept(encoder, block, name)
        try:
            with lock.acquire(timeout=-1 if patient else 0):
                features = self._kept_features(name)
                return features if features is not None else self._computed_and_kept(encoder, block, name)
        except Timeout:
            return None

    def _computed_and_kept(self, encoder: SampleEncoder, block: Tensor, name: str) -> Tensor:
        features = _computed(encoder, block)
        self._write(name, features)
        return features

    def _lock(self, name: str) -> FileLock | None:
        """One of a fixed number of locks, which stay where they are; None where a folder can hold none."""
        if self.folder is None:
            return None
        folder = self.folder / _LOCKS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f"{int(name[:8], 16) % _LOCK_FILES:02d}"
            probe.touch()
        except OSError:
            return None
        return FileLock(probe)

    def _kept_features(self, name: str) -> Tensor | None:
        if name in self._in_memory:
            return self._in_memory[name]
        if self.folder is None:
            return None
        path = self.folder / name
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor("features")
                wanted = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        if wanted != _digest(bytes_of(features)):
            _log.warning("features.damaged", file=str(path))
            return None
        with suppress(OSError):
            os.utime(path)
        return features

    def _hold(self, name: str, features: Tensor) -> None:
        self._in_memory[name] = features
        self._in_memory.move_to_end(name)
        while sum(kept.nbytes for kept in self._in_memory.values()) > self._memory and len(self._in_memory) > 1:
            self._in_memory.popitem(last=False)

    def _write(self, name: str, features: Tensor) -> None:
        """A disk that is full or broken is told in the log: features can be computed again."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(features.nbytes)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".part-", delete=False) as file:
                try:
                    file.write(save({"features": features}, metadata={"sha256": _digest(bytes_of(features))}))
                    file.close()
                    Path(file.name).replace(self.folder / name)
                finally:
                    Path(file.name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("features.not_kept", folder=str(self.folder), reason=str(error))

    def _make_room(self, needed: int) -> None:
        assert self.folder is not None
        files = []
        for path in self.folder.iterdir():
            if path.name == _LOCKS:
                continue
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + needed <= self._limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= size


_caches = [FeatureCache()]
"""One a process, as one process trains for one site."""
_digests: WeakKeyDictionary[SampleEncoder, tuple[Any, str]] = WeakKeyDictionary()
"""Of each encoder: where its backbone's tensors lie and how often each was written to, and the hash of then."""
_watching: ContextVar[Progress] = ContextVar("watching", default=lambda _: None)


def keep_features(folder: Path | None, *, limit_bytes: int = _DISK) -> None:
    """From now on this process keeps features in `folder`, too; None: in memory alone."""
    if folder is not None and folder == _caches[0].folder:
        return
    _caches[0] = FeatureCache(folder, limit_bytes=limit_bytes)


def features_of(encoder: SampleEncoder, rows: Tensor) -> Tensor:
    """As FeatureCache.features, of this process's cache."""
    return _caches[0].features(encoder, rows)


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """`progress` hears the share of a split's features that is there, from 0, whenever features are asked for."""
    token = _watching.set(progress)
    try:
        yield
    finally:
        _watching.reset(token)


def backbone_digest(encoder: SampleEncoder) -> str:
    """Hash of all that a feature depends on beside the rows: weights, settings, torch, and the kind of device.

    Weights are hashed once, and again only after somebody wrote to them.
    """
    marks = tuple(
        (value.data_ptr(), value._version) for value in encoder.network.backbone.state_dict(keep_vars=True).values()
    )
    known = _digests.get(encoder)
    marks = (*marks, (int(encoder.encodes_in_bfloat16), 0))
    if known is None or known[0] != marks:
        known = _digests[encoder] = marks, _backbone_digest(encoder)
    return known[1]


def _backbone_digest(encoder: SampleEncoder) -> str:
    state = encoder.network.backbone.state_dict()
    settings = {
        "architecture": encoder.config.architecture,
        "options": encoder.config.options,
        "modality": encoder.modality.value,
        "pooling": encoder.config.pooling,
        "padding": getattr(encoder.network.backbone, "padding", None),
        "mean": encoder.config.image_mean,
        "std": encoder.config.image_std,
        "torch": torch.__version__,
        "device": _device(encoder).type,
        **({"precision": "bfloat16"} if encoder.encodes_in_bfloat16 else {}),
        **({"projection": "own"} if encoder.config.projection == "own" else {}),
        "tensors": {name: (str(value.dtype), tuple(value.shape)) for name, value in state.items()},
    }
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(state):
        hashed.update(bytes_of(state[name]))
    return hashed.hexdigest()


@torch.inference_mode()
def _computed(encoder: SampleEncoder, rows: Tensor) -> Tensor:
    training = encoder.training
    encoder.eval()
    order = _shortest_first(encoder, rows)
    arranged = rows if order is None else rows[order]
    features = batches_worked(lambda batch: encoder.pooled(batch).float(), arranged, _device(encoder)).cpu()
    encoder.train(training)
    # A tensor that was made in inference mode may take no part in training.
    return (features if order is None else features[order.argsort()]).clone()


def _shortest_first(encoder: SampleEncoder, rows: Tensor) -> Tensor | None:
    """An order of texts that puts equal lengths into one batch, whose padding is then cut off; None for images."""
    if encoder.modality is Modality.IMAGE:
        return None
    padding = getattr(encoder.network.backbone, "padding", 0)
    return (rows != padding).sum(1).argsort(stable=True)


def _device(encoder: SampleEncoder) -> torch.device:
    return next(encoder.parameters()).device


def _digest(*parts: bytes | memoryview) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()
