"""The personalized model as it is sent up: in parts where the federation has some of it, and what that is known by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.files import write_atomically
from fedafd.agent.state import DELIVERED_MODEL_FILE, MODEL_SOURCE_FILE, PARTS_FILE, PendingResult, StateDirectory
from fedafd.artifacts.model_parts import BundleBase
from fedafd.artifacts.model_splitting import DeliveredModel, SplitModel, delivered_model, split_model
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import UploadPurpose
from fedafd.telemetry.logging import get_logger

__all__ = ["SharedModel", "ToSend"]

_log = get_logger(__name__)


@dataclass(frozen=True)
class ToSend:
    """A file to send, and what the ledger says of it."""

    path: Path
    detail: str = ""


class SharedModel:
    """Of one agent."""

    def __init__(self, state: StateDirectory, cache: ArtifactCache) -> None:
        self._state, self._cache = state, cache

    def to_send(self, pending: PendingResult, *, in_parts: bool) -> dict[UploadPurpose, ToSend]:
        """All files of a delivery; of the model the whole unless it may go in parts, and that is less."""
        files = {purpose: ToSend(path) for purpose, path in pending.blobs().items()}
        whole = files.get(UploadPurpose.PERSONALIZED_MODEL)
        parts = self._parts(pending, whole.path) if whole is not None and in_parts else None
        return files if parts is None else files | {UploadPurpose.PERSONALIZED_MODEL: parts}

    def remember(self, pending: PendingResult) -> None:
        """It was delivered: keep the hashes of what is in it, so that the next one need not bring that again."""
        whole = pending.blobs().get(UploadPurpose.PERSONALIZED_MODEL)
        if whole is None:
            return
        try:
            delivered = delivered_model(whole, pending.round_number)
            write_atomically(pending.folder / DELIVERED_MODEL_FILE, delivered.to_bytes())
        except (FedafdError, OSError, ValueError) as error:
            _log.info("agent.model_not_remembered", reason=str(error), next="the next one is sent without it")

    def _parts(self, pending: PendingResult, whole: Path) -> ToSend | None:
        try:
            split = split_model(whole, self._bundles(pending), self._delivered())
            if split is None:
                return None
            path = pending.folder / PARTS_FILE
            write_atomically(path, split.blob)
        except (FedafdError, OSError, ValueError) as error:
            _log.info("agent.model_goes_whole", reason=str(error))
            return None
        return ToSend(path, _detail(split, whole.stat().st_size))

    def _bundles(self, pending: PendingResult) -> list[Path]:
        """Those of the result's round that are still here."""
        try:
            named = json.loads((pending.folder / MODEL_SOURCE_FILE).read_text(encoding="utf-8"))["bundles"].values()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []
        bundles = [self._cache.find(str(sha256)) for sha256 in sorted(named)]
        return [path for path in bundles if path is not None]

    def _delivered(self) -> DeliveredModel | None:
        """What was delivered last, if that is known."""
        current = self._state.current_folder()
        if current is None or not (current[1] / DELIVERED_MODEL_FILE).exists():
            return None
        return DeliveredModel.from_bytes((current[1] / DELIVERED_MODEL_FILE).read_bytes())


def _detail(split: SplitModel, whole_bytes: int) -> str:
    bundles = [base.sha256[:16] for base in split.bases if isinstance(base, BundleBase)]
    rounds = sorted({base.version for base in split.bases if not isinstance(base, BundleBase)})
    named = [f"encoder bundle {sha256}" for sha256 in bundles] + [f"the model of round {number}" for number in rounds]
    rest = f"; the rest is that of {', '.join(named)}" if named else ", each tensor once"
    return f"in parts, of a model of {whole_bytes:,} bytes{rest}"
