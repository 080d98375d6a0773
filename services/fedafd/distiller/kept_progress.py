"""How far a long stage came, in the object store, where whoever claims the stage next finds it.

What is kept is bound to the stage: to its round, its inputs by their hashes, its seed, its configuration and the kind
of device. It is sealed with the internal token, so that nobody who may merely write to the store can slip another state
in. It lies among the round's objects and goes with them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fedafd.artifacts.headers import read_meta
from fedafd.artifacts.keys import RoundObjects
from fedafd.distiller.claims import Claimed
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience
from fedafd.domain.errors import ArtifactCorruptError, ArtifactNotFoundError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.waypoints import NOWHERE, Waypoints
from fedafd.rpc.codes import stage_kind_from_wire
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified
from fedafd.telemetry.logging import get_logger

__all__ = ["ProgressKeeper"]

_LONG = (StageKind.PREPARE, StageKind.DISTIL)
_PURPOSE = b"fedafd progress of stages"
_NEWEST = "newest"
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProgressKeeper:
    """Gives each long stage its waypoints. `asked` tells that this process is about to end."""

    store: ObjectStore
    patience: Patience
    metrics: DistillerMetrics
    internal_token: str
    device: str
    every_seconds: float
    asked: Callable[[], bool]

    def waypoints(self, stage: Claimed) -> Waypoints:
        """Those of a claimed stage. The first who claims it looks for nothing."""
        kind = stage_kind_from_wire(stage.claim.kind)
        if kind not in _LONG:
            return NOWHERE
        binding = _binding(stage, self.device)
        objects = RoundObjects(stage.claim.federation_id, stage.claim.round_number)
        kept = _InStore(
            store=self.store,
            patience=self.patience,
            resumed=self.metrics.resumed.labels(kind=kind.value).inc,
            prefix=objects.progress(binding),
            key=hmac.digest(self.internal_token.encode(), _PURPOSE + binding.encode(), "sha256"),
            earlier=stage.claim.token > 1,
        )
        return Waypoints(kept, every_seconds=self.every_seconds, asked=self.asked)


def _binding(stage: Claimed, device: str) -> str:
    """Hash of all that the stage's bits depend on."""
    claim = stage.claim
    parts = [
        claim.federation_id,
        claim.round_id,
        claim.round_number,
        claim.kind,
        claim.modality,
        claim.seed,
        claim.federation_config_json,
        claim.public_set_sha256,
        sorted((given.name, given.artifact.sha256) for given in claim.inputs),
        device,
    ]
    return sha256_of(json.dumps(parts).encode())


@dataclass(frozen=True, kw_only=True)
class _InStore:
    """A row of two objects for each part, written in turn, and a small third that names the newer one."""

    store: ObjectStore = field(repr=False)
    patience: Patience = field(repr=False)
    resumed: Callable[[], None] = field(repr=False)
    prefix: str
    key: bytes = field(repr=False)
    earlier: bool
    """Whether anybody may have kept something before."""
    _turns: dict[str, int] = field(default_factory=dict, repr=False)

    def read(self, part: str) -> bytes | None:
        if not self.earlier:
            return None
        try:
            turn, sha256 = self._newest(part)
            kept = self.patience.through(lambda: get_verified(self.store, self._object(part, turn), sha256))
        except (ArtifactNotFoundError, ArtifactCorruptError, ValueError, KeyError, TypeError) as error:
            if not isinstance(error, ArtifactNotFoundError):
                _log.warning("stage.progress_unusable", part=part, reason=str(error))
            return None
        self._turns[part] = turn
        self.resumed()
        _log.info("stage.goes_on", part=part, done=_done(read_meta(kept)))
        return kept

    def write(self, part: str, content: Checkpoint) -> None:
        kept = content.to_bytes()
        turn, sha256 = 1 - self._turns.get(part, 1), sha256_of(kept)
        self.store.put(self._object(part, turn), kept)
        newest = {"turn": turn, "sha256": sha256, "seal": self._seal(part, turn, sha256)}
        self.store.put(self._object(part, _NEWEST), json.dumps(newest).encode())
        self._turns[part] = turn
        _log.info("stage.progress_kept", part=part, done=_done(content.meta), size_bytes=len(kept))

    def below(self, name: str) -> _InStore:
        return replace(self, prefix=f"{self.prefix}{name}/", _turns={})

    def _newest(self, part: str) -> tuple[int, str]:
        newest = json.loads(self.patience.through(lambda: self.store.get(self._object(part, _NEWEST))))
        turn, sha256 = int(newest["turn"]), str(newest["sha256"])
        if not hmac.compare_digest(str(newest["seal"]), self._seal(part, turn, sha256)):
            raise ValueError("its seal is not of this stage")
        return turn, sha256

    def _object(self, part: str, which: int | str) -> str:
        return f"{self.prefix}{part}/{which}"

    def _seal(self, part: str, turn: int, sha256: str) -> str:
        return hmac.new(self.key, f"{self._object(part, turn)} {sha256}".encode(), hashlib.sha256).hexdigest()


def _done(meta: dict[str, Any]) -> int:
    """Steps or rows."""
    return int(meta.get("done", 0))
