"""Folds that share what they compare with: the same bits as each for itself, as the plain formulas, and less work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch.nn import functional as F

from fedafd.algorithm import checks, distillation, similarity
from fedafd.algorithm.checks import InvalidTensorError
from fedafd.artifacts.sed_states import HALF_ROWS, WEIGHTED_SUM
from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality
from fedafd.learning.ensemble import aggregate, fold_state, merge_states
from fedafd.learning.folding import Folding
from fedafd.learning.weighing import score_sheet

SHAPES = [(3, 8), (8, 8), (200, 12)]


def rows(seed: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def config(dim: int, **distillation: Any) -> FederationConfig:
    return FederationConfig.model_validate({"name": "f", "embedding_dim": dim, "distillation": distillation})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ensemble", ["similarity", "mean", "contrastive"])
def test_a_fold_has_the_same_bits_whatever_was_folded_before_it(ensemble: str, shape: tuple[int, int]) -> None:
    chosen = config(shape[1], ensemble=ensemble, staleness_decay=0.5)
    reps = {modality: rows(number, shape) for number, modality in enumerate(Modality)}
    folding = Folding(chosen, reps)
    for seed in (2, 3, 4, 2):
        for modality in Modality:
            folded = folding.fold(modality, rows(seed, shape), staleness=seed - 2)
            assert folded.state == fold_state(chosen, modality, rows(seed, shape), reps, staleness=seed - 2)
            assert folded.sheet == (
                score_sheet(chosen, modality, folded.state, reps) if chosen.distillation.caps_weights else None
            )


@pytest.mark.parametrize("staleness", [0, 3])
def test_rows_that_came_in_float16_are_kept_in_it_without_a_bit_lost(staleness: int) -> None:
    chosen = config(12, staleness_decay=0.5)
    reps = dict.fromkeys(Modality, rows(0, (200, 12)))
    sent_ND = rows(1, (200, 12)).astype(np.float16)
    state = Folding(chosen, reps).fold(Modality.TEXT, sent_ND.astype(np.float32), staleness=staleness).state
    kept = load(state)
    assert WEIGHTED_SUM not in kept
    assert kept[HALF_ROWS].dtype == torch.float16
    assert torch.equal(kept[HALF_ROWS], torch.from_numpy(sent_ND))
    assert merge_states([state]) == state
    kept[WEIGHTED_SUM] = kept.pop(HALF_ROWS).float()
    in_float32 = save(kept)
    other = fold_state(chosen, Modality.TEXT, rows(2, (200, 12)), reps)
    assert merge_states([state, other]) == merge_states([in_float32, other])
    assert np.array_equal(aggregate(chosen, state), aggregate(chosen, in_float32))


def test_rows_that_float16_would_round_stay_in_float32() -> None:
    reps = dict.fromkeys(Modality, rows(0, (8, 8)))
    for sent_ND in (rows(1, (8, 8)), np.full((8, 8), 1e6, np.float32), np.full((8, 8), 1e-9, np.float32)):
        kept = load(fold_state(config(8), Modality.TEXT, sent_ND, reps))
        assert HALF_ROWS not in kept
        assert torch.equal(kept[WEIGHTED_SUM], torch.from_numpy(sent_ND))


@pytest.mark.parametrize("wrong", ["both", "neither"])
def test_a_state_with_rows_twice_or_never_is_refused(wrong: str) -> None:
    reps = dict.fromkeys(Modality, rows(0, (8, 8)))
    kept = load(fold_state(config(8), Modality.TEXT, rows(1, (8, 8)), reps))
    if wrong == "both":
        kept[HALF_ROWS], message = kept[WEIGHTED_SUM].half(), "rows twice"
    else:
        del kept[WEIGHTED_SUM]
        message = "missing weighted_sum"
    with pytest.raises((DataError, InvalidTensorError), match=message):
        aggregate(config(8), save(kept))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sheet_has_the_bits_of_the_plain_formulas(shape: tuple[int, int]) -> None:
    chosen = config(shape[1], centre=False, trimmed_share=0.2, weight_cap="auto")
    reps = dict.fromkeys(Modality, rows(0, shape))
    sheet = Folding(chosen, reps).fold(Modality.TEXT, rows(1, shape)).sheet
    assert sheet is not None
    mine_ND, known_ND = torch.from_numpy(rows(1, shape)), torch.from_numpy(reps[Modality.TEXT])
    along_ND = F.normalize(known_ND, dim=1)
    rest_ND = mine_ND - (mine_ND * along_ND).sum(dim=1, keepdim=True) * along_ND
    rest_ND = rest_ND - rest_ND.mean(dim=0)
    found = load(sheet)
    assert torch.equal(found["every"], F.normalize(rest_ND, dim=1).half())
    assert float(found["similarity"]) == float(F.cosine_similarity(mine_ND, known_ND, dim=1).double().mean())


def test_what_all_folds_compare_with_is_checked_for_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    check = checks.check_finite

    def noted(name: str, tensor: torch.Tensor) -> None:
        looked.append(tensor.data_ptr())
        check(name, tensor)

    for module in ("distillation", "centring"):
        monkeypatch.setattr(f"fedafd.algorithm.{module}.check_finite", noted)
    shape = SHAPES[-1]
    folding = Folding(config(shape[1]), dict.fromkeys(Modality, rows(0, shape)))
    folding.fold(Modality.IMAGE, rows(1, shape))
    first = len(looked)
    folding.fold(Modality.IMAGE, rows(2, shape))
    assert len(looked) == first  # of a later client the length of its longest row tells it


@pytest.mark.parametrize("large", [False, True], ids=["a thread each", "all threads in turn"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_folds_side_by_side_have_the_bits_of_one_after_the_other(
    precision: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's settings as before afterwards, whoever of them ends last."""
    if large:
        monkeypatch.setattr("fedafd.learning.folding._SMALL", 0)
    threads, shape = torch.get_num_threads(), (300, 64)
    chosen = config(shape[1], precision=precision)
    reps = {modality: rows(number, shape) for number, modality in enumerate(Modality)}
    products: Any = torch.backends.mkldnn
    before = products.matmul.fp32_precision
    clients = [(modality, rows(seed, shape)) for seed in range(2, 10) for modality in Modality]
    alone = [Folding(chosen, reps).fold(*client) for client in clients]
    together = Folding(chosen, reps)
    with ThreadPoolExecutor(4) as pool:
        folded = list(pool.map(lambda client: together.fold(*client), clients * 3))
    assert folded == alone * 3
    assert products.matmul.fp32_precision == before
    assert torch.get_num_threads() == threads


def test_a_small_fold_computes_on_one_thread_and_a_large_one_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    scores = similarity.fold_scores

    def noted(*given: Any) -> torch.Tensor:
        counted.append(torch.get_num_threads())
        return scores(*given)

    monkeypatch.setattr(distillation, "fold_scores", noted)
    threads, shape = torch.get_num_threads(), SHAPES[0]
    torch.set_num_threads(2)
    try:
        folding = Folding(config(shape[1]), dict.fromkeys(Modality, rows(0, shape)))
        folding.fold(Modality.IMAGE, rows(1, shape))
        monkeypatch.setattr("fedafd.learning.folding._SMALL", 0)
        folding.fold(Modality.IMAGE, rows(1, shape))
        assert (counted, torch.get_num_threads()) == ([1, 2], 2)
    finally:
        torch.set_num_threads(threads)
