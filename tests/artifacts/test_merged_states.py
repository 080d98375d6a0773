"""Regions give what a flat federation gives, and what no region of its size can make is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedafd.artifacts.merged_states import ClientCounts, check_merged_states, encode_merged_states, sed_state_of
from fedafd.artifacts.representations import decode_representations, encode_representations
from fedafd.artifacts.sed_states import HALF_ROWS
from fedafd.domain.config import FederationConfig, WireDtype, parse_federation_config
from fedafd.domain.errors import PublicSetMismatchError, RepresentationError
from fedafd.domain.kinds import Modality
from fedafd.learning.ensemble import aggregate, fold_state, merge_states

SHA, GLOBAL, N, D = "a" * 64, "c" * 64, 24, 8
Reps = Mapping[Modality, NDArray[np.float32]]


def config(**distillation: Any) -> FederationConfig:
    return parse_federation_config({"name": "trial", "embedding_dim": D, "distillation": distillation})


def unit_rows(seed: int) -> NDArray[np.float32]:
    # A narrow cone, as representations are: similar rows, so that scores differ little or much with tau.
    rows = np.random.default_rng(seed).normal(size=(N, D)) + 1
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def as_sent(reps: Reps, dtype: WireDtype) -> Reps:
    return decode_representations(
        encode_representations(reps, SHA, dtype),
        modalities=list(reps),
        num_samples=N,
        embedding_dim=D,
        public_set_sha256=SHA,
        dtype=dtype,
    )


def delivered(
    region: Sequence[Reps], chosen: FederationConfig, global_reps: Reps, file: Path
) -> tuple[bytes, ClientCounts]:
    states = {
        m: merge_states([fold_state(chosen, m, reps[m], global_reps) for reps in region if m in reps])
        for m in Modality
        if any(m in reps for reps in region)
    }
    blob = encode_merged_states(states, total=len(region), public_set_sha256=SHA, global_sha256=GLOBAL)
    file.write_bytes(blob)
    return blob, checked(file, chosen, most=len(region))


def checked(file: Path, chosen: FederationConfig, most: int = 3) -> ClientCounts:
    return check_merged_states(
        file, chosen, num_samples=N, public_set_sha256=SHA, global_sha256=GLOBAL, max_clients=most
    )


HELD = st.sampled_from([(Modality.IMAGE,), (Modality.TEXT,), tuple(Modality)])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.lists(HELD, min_size=1, max_size=9),
    cuts=st.sets(st.integers(1, 8)),
    ensemble=st.sampled_from(["similarity", "mean", "contrastive"]),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    dtype=st.sampled_from(WireDtype),
    direct=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_regions_of_any_sizes_equal_the_flat_federation(
    held: list[tuple[Modality, ...]],
    cuts: set[int],
    ensemble: str,
    temperature: float,
    precision: str,
    dtype: WireDtype,
    direct: bool,
    seed: int,
    tmp_path: Path,
) -> None:
    chosen = config(ensemble=ensemble, temperature=temperature, precision=precision)
    global_reps = {m: unit_rows(seed + index) for index, m in enumerate(Modality)}
    clients = [
        as_sent({m: unit_rows(seed + 10 * number + index) for index, m in enumerate(ms)}, dtype)
        for number, ms in enumerate(held, start=1)
    ]
    edges = [0, *sorted(cut for cut in cuts if cut < len(clients)), len(clients)]
    groups = [clients[first:last] for first, last in pairwise(edges)]
    for modality in Modality:
        leaves = []
        for number, group in enumerate(groups):
            if direct and number == 0:  # clients without a region
                leaves += [
                    fold_state(chosen, modality, reps[modality], global_reps) for reps in group if modality in reps
                ]
                continue
            blob, counts = delivered(group, chosen, global_reps, tmp_path / "region")
            assert counts.total == len(group)
            assert counts.by_modality.get(modality, 0) == sum(modality in reps for reps in group)
            if modality in counts.by_modality:
                leaves.append(sed_state_of(blob, modality))
        flat = [fold_state(chosen, modality, reps[modality], global_reps) for reps in clients if modality in reps]
        if flat:
            found, expected = aggregate(chosen, merge_states(leaves)), aggregate(chosen, merge_states(flat))
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_a_region_of_one_client_delivers_float32_whatever_its_state_is_kept_in(tmp_path: Path) -> None:
    sent = as_sent({Modality.TEXT: unit_rows(1)}, WireDtype.FLOAT16)
    global_reps = dict.fromkeys(Modality, unit_rows(2))
    assert HALF_ROWS in load(fold_state(config(), Modality.TEXT, sent[Modality.TEXT], global_reps))
    blob, counts = delivered([sent], config(), global_reps, tmp_path / "region")
    assert counts.total == 1
    tensors = load(blob)
    assert tensors["text.weighted_sum"].dtype == np.float32
    np.testing.assert_array_equal(tensors["text.weighted_sum"], sent[Modality.TEXT])


def good() -> dict[str, NDArray[np.generic]]:
    """An image state of two clients."""
    return {
        "image.running_max": np.full(N, -1, np.float32),
        "image.normaliser": np.full(N, 1.5, np.float32),
        "image.weighted_sum": 1.5 * unit_rows(1),
        "image.count": np.array(2, np.int64),
        "image.temperature": np.array(0.1, np.float64),
    }


def packed(tensors: Mapping[str, Any], clients: object = 2, sha: str = SHA, global_sha: str = GLOBAL) -> bytes:
    about = {"public_set_sha256": sha, "global_representations_sha256": global_sha}
    return save(dict(tensors), metadata=about | {"num_clients": str(clients)})


def changed(name: str, value: Any, row: int | None = None) -> bytes:
    made = good()
    if row is None:
        made[name] = value
    else:
        made[name][row] = value
    return packed({name: value for name, value in made.items() if value is not None})


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a number": (lambda: changed("image.weighted_sum", np.nan, 5), "'image.weighted_sum' .*not finite, .* row 5"),
    "an infinite maximum": (lambda: changed("image.running_max", np.inf, 2), "'image.running_max' is not finite"),
    "an empty maximum": (lambda: changed("image.running_max", -np.inf, 2), "'image.running_max' is not finite"),
    "a score above any client's": (lambda: changed("image.running_max", 3, 7), "above the highest score .* row 7"),
    "more weight than clients": (lambda: changed("image.normaliser", 2.1, 3), "is not 1 to 2, .* row 3"),
    "no weight": (lambda: changed("image.normaliser", 0, 0), "is not 1 to 2"),
    "rows beyond unit length": (lambda: changed("image.weighted_sum", 9.0, 4), "longer than its normaliser, .* row 4"),
    "another shape": (lambda: changed("image.weighted_sum", np.ones((N, D + 1), np.float32)), r"expected .*\[24, 8\]"),
    "too few samples": (lambda: changed("image.running_max", np.ones(3, np.float32)), r"shape \[3\], .*\[24\]"),
    "another dtype": (lambda: changed("image.normaliser", np.ones(N)), "dtype float64"),
    "another temperature": (lambda: changed("image.temperature", np.array(0.2)), "is 0.2, and the federation's is 0.1"),
    "a count of another form": (lambda: changed("image.count", np.array([2, 2])), "'image.count' must be one int64"),
    "a tensor too few": (lambda: changed("image.normaliser", None), "image.normaliser"),
    "a tensor too many": (lambda: changed("other", np.ones(1)), "1 are of other names"),
    "no tensor": (lambda: packed({}), "hold 0 tensors"),
    "no client": (lambda: changed("image.count", np.array(0, np.int64)), "cannot have 2 clients"),
    "clients below none": (lambda: changed("image.count", np.array(-2, np.int64)), "cannot have 2 clients"),
    "clients of no modality": (lambda: packed(good(), clients=3), "cannot have 3 clients, 2 with image"),
    "fewer than those of a modality": (lambda: packed(good(), clients=1), "cannot have 1 clients, 2 with image"),
    "no number of clients": (lambda: packed(good(), clients="many"), "do not say how many"),
    "a number too long": (lambda: packed(good(), clients="9" * 50), "do not say how many"),
    "another round": (lambda: packed(good(), global_sha="d" * 64), "other global representations"),
    "no safetensors": (lambda: b"\x80\x04cos\nsystem\n.", "not readable"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_region_of_its_size_makes_is_refused(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    (tmp_path / "blob").write_bytes(make())
    with pytest.raises(RepresentationError, match=words):
        checked(tmp_path / "blob", config())


def test_what_the_cases_change_is_taken_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(packed(good()))
    assert checked(tmp_path / "blob", config()) == ClientCounts(total=2, by_modality={Modality.IMAGE: 2})


def test_more_clients_than_the_region_may_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(packed(good()))
    with pytest.raises(RepresentationError, match="counts 2 clients, and may have 1"):
        checked(tmp_path / "blob", config(), most=1)


def test_another_public_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(packed(good(), sha="b" * 64))
    with pytest.raises(PublicSetMismatchError, match="bbbb.*aaaa"):
        checked(tmp_path / "blob", config())


def test_a_state_weighs_at_most_as_much_as_its_clients_at_the_highest_score(tmp_path: Path) -> None:
    """The loudest state that is taken moves the ensemble as far as two clients that match perfectly, no further."""
    loud = good() | {"image.running_max": np.zeros(N, np.float32), "image.normaliser": np.full(N, 2, np.float32)}
    loud["image.weighted_sum"] = 2 * unit_rows(1)
    (tmp_path / "blob").write_bytes(packed(loud))
    checked(tmp_path / "blob", config())
    honest = fold_state(config(), Modality.IMAGE, unit_rows(2), {m: unit_rows(3) for m in Modality})
    state = load(honest)
    weight_N = np.exp(state["running_max"]) * state["normaliser"]
    both = load(merge_states([sed_state_of(packed(loud), Modality.IMAGE), honest]))
    share_N = weight_N / (np.exp(both["running_max"]) * both["normaliser"])
    np.testing.assert_allclose(share_N, weight_N / (weight_N + 2), rtol=1e-5)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_delivery_is_taken_or_refused_but_never_crashes(position: int, value: int, tmp_path: Path) -> None:
    blob = bytearray(packed(good()))
    blob[position % min(len(blob), 700)] = value
    (tmp_path / "blob").write_bytes(blob)
    try:
        checked(tmp_path / "blob", config())
    except (RepresentationError, PublicSetMismatchError):
        pass
