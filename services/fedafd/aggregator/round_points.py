"""What trackers are shown of a finished round: the server's metrics, who delivered, bytes, times, clients' weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.artifacts.stage_io import find_sed_state
from fedafd.domain.errors import ArtifactCorruptError
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import ParticipationState, RoundState, StageState
from fedafd.persistence.models import ClientRow, ParticipationRow, RoundRow, StageRow
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.stage_repository import list_stages
from fedafd.storage import ObjectStore

__all__ = ["MOST_CLIENTS", "Folds", "round_points", "sed_weights"]

MOST_CLIENTS = 100
"""So many clients have metrics of their own, the first by name; sums are of all."""
_LONGEST_HEADER = 1 << 20
_KINDS: Mapping[str, Any] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
Folds = Mapping[str, Mapping[str, str]]
"""By modality and client the key of the client's SED state."""


async def round_points(session: AsyncSession, row: RoundRow) -> tuple[dict[str, float], Folds]:
    """Metrics by name, and where the clients' SED states are of which no weights are written."""
    parts = await list_participations(session, row.id)
    delivered = [part for part, _ in parts if part.state == ParticipationState.DELIVERED.value]
    points = {
        "round/completed": float(row.state == RoundState.COMPLETED.value),
        "round/delivered": float(len(delivered)),
        "round/missing": float(len(parts) - len(delivered)),
        "round/bytes_up": float(sum(part.bytes_up for part, _ in parts)),
        "round/bytes_down": float(sum(part.bytes_down for part, _ in parts)),
    }
    if row.finished_at is not None:
        points["round/seconds"] = (row.finished_at - (row.started_at or row.created_at)).total_seconds()
    points |= {f"server/{name}": float(value) for name, value in (row.metrics or {}).items()}
    for part, client in sorted(parts, key=lambda pair: pair[1].name)[:MOST_CLIENTS]:
        points |= {f"{client.name}/{name}": value for name, value in _of_client(part).items()}
    folds = _folds(parts, await list_stages(session, row.id))
    weighed = {modality for part, _ in parts for modality in part.contributions or {}}
    return points, {modality: keys for modality, keys in folds.items() if modality not in weighed}


def sed_weights(store: ObjectStore, folds: Folds) -> dict[str, float]:
    """`CLIENT/sed_weight/MODALITY`: the mean over public samples of the client's weight in the ensemble, 0 to 1.

    Blocking: reads the small part of each state that holds the scores. Raises what the store raises,
    ArtifactCorruptError for a state that cannot be read.
    """
    weights: dict[str, float] = {}
    for modality, keys in folds.items():
        if not keys:
            continue
        scores_KN = np.stack([_log_shares(store, key) for key in keys.values()])
        weights_KN = np.exp(scores_KN - scores_KN.max(axis=0))
        weights_KN /= weights_KN.sum(axis=0)
        means = dict(zip(keys, weights_KN.mean(axis=1).tolist(), strict=True))
        weights |= {f"{name}/sed_weight/{modality}": means[name] for name in sorted(means)[:MOST_CLIENTS]}
    return weights


def _of_client(part: ParticipationRow) -> dict[str, float]:
    """Of what it shared, and what was seen of it."""
    points = {name: float(value) for name, value in (part.metrics or {}).items()}
    points |= {"bytes_up": float(part.bytes_up), "bytes_down": float(part.bytes_down)}
    for modality, contribution in (part.contributions or {}).items():
        seen = {
            name: contribution[name] for name in ("weight", "similarity", "agreement") if contribution[name] is not None
        }
        points |= {f"sed_{name}/{modality}": float(value) for name, value in seen.items()}
    return points | {"delivered": float(part.state == ParticipationState.DELIVERED.value)}


def _folds(parts: Sequence[tuple[ParticipationRow, ClientRow]], stages: Sequence[StageRow]) -> Folds:
    names = {part.position: client.name for part, client in parts}
    folds: dict[str, dict[str, str]] = {}
    for stage in stages:
        entry = find_sed_state(stage.outputs or {})
        is_done = stage.kind == StageKind.FOLD.value and stage.state == StageState.DONE.value
        if is_done and entry and stage.position in names:
            folds.setdefault(stage.modality, {})[names[stage.position]] = entry["key"]
    return folds


def _log_shares(store: ObjectStore, key: str) -> NDArray[np.float64]:
    """log of a client's share before shares are normalised, [N]: its running maximum and normaliser.

    They stand before the weighted sum, which is by far the larger part and is not read.
    """
    start = _Start(store, key)
    try:
        maximum_N, normaliser_N = (start.tensor(name) for name in ("running_max", "normaliser"))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(f"{key}: not an SED state: {error}") from None
    shares: NDArray[np.float64] = maximum_N + np.log(normaliser_N)
    return shares


class _Start:
    """The beginning of an object in safetensors' format, read as far as it is asked for."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._pieces, self._key, self._content = store.stream(key), key, b""
        length = int.from_bytes(self._bytes(0, 8), "little")
        if not 0 < length <= _LONGEST_HEADER:
            raise ArtifactCorruptError(f"{key}: not an SED state: no header of safetensors")
        self._first, self._header = 8 + length, self._bytes(8, 8 + length)

    def tensor(self, name: str) -> NDArray[np.float64]:
        """Raises KeyError, TypeError, ValueError for another header than is expected."""
        description = json.loads(self._header)[name]
        begin, end = (self._first + int(offset) for offset in description["data_offsets"])
        return np.frombuffer(self._bytes(begin, end), _KINDS[description["dtype"]]).astype(np.float64)

    def _bytes(self, begin: int, end: int) -> bytes:
        while len(self._content) < end:
            piece = next(self._pieces, b"")
            if not piece:
                raise ArtifactCorruptError(f"{self._key}: not an SED state: it ends too early")
            self._content += piece
        return self._content[begin:end]
