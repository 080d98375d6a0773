"""What each kind of stage does: inputs from the store, work, outputs. Pure but for progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedafd.artifacts.merged_states import sed_state_of
from fedafd.artifacts.representations import (
    decode_global_representations,
    decode_representations,
    encode_representations,
)
from fedafd.artifacts.stage_io import (
    GLOBAL_REPRESENTATIONS,
    DistilInputs,
    DistilOutputs,
    EvaluateInputs,
    EvaluateOutputs,
    FoldInputs,
    FoldOutputs,
    MergeInputs,
    PrepareInputs,
    PrepareOutputs,
    WeighInputs,
    WeighOutputs,
    sed_state_outputs,
)
from fedafd.datasets.samples import PairSplit
from fedafd.domain.config import FederationConfig
from fedafd.domain.contributions import contribution_metrics
from fedafd.domain.kinds import Modality, StageKind, UploadPurpose
from fedafd.learning.comparison import standard_error
from fedafd.learning.cores import cores
from fedafd.learning.ensemble import aggregate, merge_states
from fedafd.learning.fedavg import average_updates
from fedafd.learning.folding import Folding
from fedafd.learning.server_round import distil, evaluate, export_global_model, initial_server_state, prepare
from fedafd.learning.waypoints import NOWHERE, Waypoints
from fedafd.learning.weighing import score_sheet, weigh

__all__ = ["StageResult", "StageWork", "run_stage"]


@dataclass
class Decoded:
    """What folds that are worked on together decode once; of one round."""

    global_reps: dict[Modality, NDArray[np.float32]] | None = None
    folding: Folding | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """A stage with all it needs in memory."""

    kind: StageKind
    config: FederationConfig
    federation_id: str
    round_number: int
    seed: int
    public_set_sha256: str
    modality: Modality | None
    inputs: Mapping[str, bytes]
    split: Callable[[str], PairSplit]
    """Reads a split of the public set."""
    device: str
    processes: int | Literal["auto"]
    progress: Callable[[float, str], None]
    decoded: Decoded = field(default_factory=Decoded)
    waypoints: Waypoints = NOWHERE
    """Where a long stage keeps how far it came."""


@dataclass(frozen=True)
class StageResult:
    """Outputs by name, and metrics."""

    outputs: dict[str, bytes]
    metrics: dict[str, float] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    """Of those outputs that were hashed on the way, by name."""


def run_stage(work: StageWork) -> StageResult:
    """Do the stage's work. Raises DivergedError, DataError, ConfigurationError."""
    return _WORK[work.kind](work)


def _prepare(work: StageWork) -> StageResult:
    public = work.split("train")
    state = PrepareInputs.of(work.inputs).server_state
    if state is None:
        state = initial_server_state(config=work.config, captions=public.captions, seed=work.config.seed)
    prepared = prepare(
        config=work.config,
        state=state,
        public=public,
        round_number=work.round_number,
        seed=work.seed,
        device=work.device,
        processes=work.processes,
        progress=work.progress,
        waypoints=work.waypoints,
    )
    # Rounded here, once: sites, folds and distillation work on the very same rows.
    reps = encode_representations(prepared.representations, work.public_set_sha256, work.config.wire_dtype)
    outputs = PrepareOutputs(server_state=prepared.state, global_representations=reps, encoder_bundles=prepared.bundles)
    return StageResult(outputs.named())


def _fold(work: StageWork) -> StageResult:
    assert work.modality is not None
    if UploadPurpose.MERGED_STATES in work.inputs:
        state = sed_state_of(work.inputs[UploadPurpose.MERGED_STATES], work.modality)
        sheet = None
        if work.config.distillation.caps_weights:
            known = work.inputs.get(GLOBAL_REPRESENTATIONS)  # not in a stage that an older aggregator announced
            sheet = score_sheet(work.config, work.modality, state, None if known is None else _folding(work, known)[0])
        return StageResult(FoldOutputs(state=state, sheet=sheet).named())
    inputs = FoldInputs.of(work.inputs)
    global_reps, folding = _folding(work, inputs.global_representations)
    count, dim = global_reps[work.modality].shape
    own = [m for m in Modality if m is work.modality]
    reps = decode_representations(
        inputs.client_representations,
        modalities=own,
        num_samples=count,
        embedding_dim=dim,
        public_set_sha256=work.public_set_sha256,
        dtype=work.config.wire_dtype,
        allow_more=True,
    )
    modality = work.modality
    folded = folding.fold(modality, reps[modality], staleness=inputs.age)
    outputs = FoldOutputs(state=folded.state, sheet=folded.sheet).named()
    return StageResult(outputs, sha256={} if folded.sha256 is None else sed_state_outputs(folded.sha256))


def _folding(work: StageWork, blob: bytes) -> tuple[dict[Modality, NDArray[np.float32]], Folding]:
    """The global representations, and what folds clients beside them; the first of the folds makes both."""
    decoded = work.decoded
    with decoded.lock:
        if decoded.global_reps is None or decoded.folding is None:
            decoded.global_reps = _global(work, blob)
            decoded.folding = Folding(work.config, decoded.global_reps, device=work.device)
        return decoded.global_reps, decoded.folding


def _weigh(work: StageWork) -> StageResult:
    sheets = WeighInputs.of(work.inputs).sheets
    weighed = weigh(work.config, list(sheets.values()))
    contributions = dict(zip(sheets, weighed.contributions, strict=True))
    return StageResult(WeighOutputs(limit=weighed.limit).named(), contribution_metrics(contributions))


def _merge(work: StageWork) -> StageResult:
    inputs = MergeInputs.of(work.inputs)
    with cores(1):  # several are merged at the same time
        return StageResult(sed_state_outputs(merge_states(inputs.states, inputs.limit)))


def _distil(work: StageWork) -> StageResult:
    inputs = DistilInputs.of(work.inputs)
    aggregates = {modality: aggregate(work.config, state) for modality, state in inputs.ensembles.items()}
    state = distil(
        config=work.config,
        state=inputs.server_state,
        public=work.split("train"),
        representations=_global(work, inputs.global_representations),
        aggregates=aggregates,
        round_number=work.round_number,
        seed=work.seed,
        device=work.device,
        processes=work.processes,
        progress=work.progress,
        waypoints=work.waypoints,
    )
    averages = average_updates(list(inputs.client_weights))
    return StageResult(DistilOutputs(server_state=state, averages=averages).named())


def _evaluate(work: StageWork) -> StageResult:
    state = EvaluateInputs.of(work.inputs).server_state
    evaluation = evaluate(
        config=work.config, state=state, samples=work.split("test"), device=work.device, progress=work.progress
    )
    error = standard_error(evaluation.scores)
    metrics = evaluation.metrics | ({} if error is None else {"rsum_standard_error": error})
    lineage = {
        "federation": work.federation_id,
        "round": work.round_number,
        "public_set_sha256": work.public_set_sha256,
        "seed": work.config.seed,
    }
    files = export_global_model(config=work.config, state=state, metrics=metrics, lineage=lineage)
    return StageResult(EvaluateOutputs(server_state=state, model_files=files).named(), metrics)


def _global(work: StageWork, blob: bytes) -> dict[Modality, NDArray[np.float32]]:
    return decode_global_representations(
        blob,
        num_samples=None,
        embedding_dim=work.config.embedding_dim,
        public_set_sha256=work.public_set_sha256,
        dtype=work.config.wire_dtype,
    )


_WORK: dict[StageKind, Callable[[StageWork], StageResult]] = {
    StageKind.PREPARE: _prepare,
    StageKind.FOLD: _fold,
    StageKind.WEIGH: _weigh,
    StageKind.MERGE: _merge,
    StageKind.DISTIL: _distil,
    StageKind.EVALUATE: _evaluate,
}
