"""Inputs and outputs of stages come back from their names, which are those that stored rounds have."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.artifacts import stage_io
from fedafd.artifacts.stage_io import (
    DistilInputs,
    DistilOutputs,
    EvaluateInputs,
    EvaluateOutputs,
    FoldInputs,
    FoldOutputs,
    MergeInputs,
    PrepareInputs,
    PrepareOutputs,
    SharedOutputs,
    WeighInputs,
    WeighOutputs,
)
from fedafd.domain.kinds import ClientKind, Modality, UploadPurpose

BOTH = {modality: modality.value for modality in Modality}
STORED = [
    (PrepareInputs(server_state=None), []),
    (PrepareInputs(server_state="s"), ["server-state"]),
    (
        PrepareOutputs(server_state="s", global_representations="g", encoder_bundles=BOTH),
        ["server-state", "representations", "encoder-bundle/image", "encoder-bundle/text"],
    ),
    (
        FoldInputs(client_representations="c", global_representations="g"),
        ["representations", "global-representations"],
    ),
    (
        FoldInputs(client_representations="c", global_representations="g", age=3),
        ["stale-representations/3", "global-representations"],
    ),
    (FoldOutputs(state="s"), ["sed-state"]),
    (FoldOutputs(state="s", sheet="t"), ["sed-state", "sed-sheet"]),
    (WeighInputs(sheets={2: "a", 11: "b"}), ["sed-sheet/2", "sed-sheet/11"]),
    (WeighOutputs(limit="t"), ["sed-limit"]),
    (MergeInputs(states=("a", "b")), ["sed-state/0", "sed-state/1"]),
    (MergeInputs(states=("a", "b"), limit="t"), ["sed-state/0", "sed-state/1", "sed-limit"]),
    (
        MergeInputs(states=("a", ("b", ("c", "d")), ("e", "f")), limit="t"),
        [
            "sed-state/0",
            "sed-state/1/0",
            "sed-state/1/1/0",
            "sed-state/1/1/1",
            "sed-state/2/0",
            "sed-state/2/1",
            "sed-limit",
        ],
    ),
    (
        DistilInputs(server_state="s", global_representations="g", ensembles=BOTH, client_weights=("v", "w")),
        [
            "server-state",
            "global-representations",
            "sed-state/image",
            "sed-state/text",
            "weights/000000",
            "weights/000001",
        ],
    ),
    (
        DistilInputs(server_state="s", global_representations="g", ensembles={}),
        ["server-state", "global-representations"],
    ),
    (DistilOutputs(server_state="s", averages={"image-0a-b": "w"}), ["server-state", "weights/image-0a-b"]),
    (EvaluateInputs(server_state="s"), ["server-state"]),
    (
        EvaluateOutputs(server_state="s", model_files={"config.json": "c", "t/v.txt": "v"}),
        ["server-state", "model/config.json", "model/t/v.txt"],
    ),
]


@pytest.mark.parametrize(("value", "names"), STORED)
def test_names_are_those_of_stored_rounds_and_come_back(value: PrepareInputs[str], names: list[str]) -> None:
    assert list(value.named()) == names
    assert type(value).of(value.named()) == value
    assert type(value).of(dict(reversed(value.named().items()))) == value


@settings(max_examples=20, deadline=None)
@given(weights=st.lists(st.binary(max_size=3), max_size=30), states=st.lists(st.integers(), min_size=1, max_size=12))
def test_order_is_kept_for_any_number(weights: list[bytes], states: list[int]) -> None:
    inputs = DistilInputs(
        server_state=b"", global_representations=b"", ensembles={}, client_weights=tuple(weights)
    ).named()
    assert DistilInputs.of(dict(reversed(inputs.items()))).client_weights == tuple(weights)
    merged = MergeInputs(states=tuple(states)).named()
    assert MergeInputs.of(dict(reversed(merged.items()))).states == tuple(states)


@pytest.mark.parametrize("kind", ClientKind)
def test_a_site_fetches_the_global_representations_and_the_encoders_it_holds(kind: ClientKind) -> None:
    made = PrepareOutputs(server_state="s", global_representations="g", encoder_bundles=BOTH)
    names = list(made.for_sites(kind.modalities))
    assert stage_io.is_global_representations(names[0])
    assert names[1:] == [stage_io.encoder_bundle(modality) for modality in kind.modalities]


def test_a_region_has_what_sites_and_folds_read_and_no_server_state() -> None:
    made = PrepareOutputs(server_state="s", global_representations="g", encoder_bundles=BOTH)
    shared = SharedOutputs.of(made.for_sites(tuple(Modality)))
    assert (shared.global_representations, shared.encoder_bundles) == ("g", BOTH)


def test_what_a_client_sent_is_told_from_what_the_server_made() -> None:
    names = FoldInputs(client_representations="", global_representations="", age=2).named()
    assert [stage_io.is_client_representations(name) for name in names] == [True, False]
    assert stage_io.is_client_representations(UploadPurpose.REPRESENTATIONS.value)


def test_a_model_file_is_told_from_other_outputs() -> None:
    names = EvaluateOutputs(server_state="s", model_files={"a/b.json": "x"}).named()
    assert [stage_io.model_path(name) for name in names] == [None, "a/b.json"]


def test_a_state_of_the_ensemble_comes_back() -> None:
    assert stage_io.sed_state_of(stage_io.sed_state_outputs("s")) == "s"
    assert stage_io.find_sed_state({}) is None
