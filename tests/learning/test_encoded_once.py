"""What a client's round encodes: each split once, whatever is chosen and told on it, and nothing that no loss reads."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from tests.learning.test_local_training import site

from fedafd.domain.kinds import ClientKind
from fedafd.learning.local_site import LocalSite, SplitName
from fedafd.learning.local_training import train_locally
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.site_evaluation import SiteEvaluator


class Counted:
    """How many rows some encoders were given, since this was made."""

    def __init__(self, encoders: Iterable[SampleEncoder]) -> None:
        self.rows = 0
        for encoder in encoders:
            encoder.register_forward_pre_hook(self._count)

    def _count(self, _: object, inputs: tuple[torch.Tensor]) -> None:
        self.rows += len(inputs[0])


def rows_of(local: LocalSite, name: SplitName) -> int:
    return sum(len(rows) for rows in local.splits[name].rows.values())


@pytest.mark.parametrize("mode", ["vector", "off"])
@pytest.mark.parametrize("kind", ClientKind)
def test_a_split_is_encoded_once_for_all_that_is_chosen_and_told_on_it(kind: ClientKind, mode: str) -> None:
    local = site(kind, mode=mode)
    train_locally(local, 1)
    own = Counted(local.encoders.values())
    alone = Counted(local.beside.encoders.values()) if local.beside is not None else None
    evaluator = SiteEvaluator(local)
    evaluator.calibrate()
    first = evaluator.views("val")
    assert own.rows == rows_of(local, "val")
    again = SiteEvaluator(local).views("val")
    assert {view: found.metrics for view, found in first.items()} == {v: found.metrics for v, found in again.items()}
    own.rows = 0
    evaluator.views("test")
    assert own.rows == rows_of(local, "test")
    assert alone is None or alone.rows == 2 * rows_of(local, "val") + rows_of(local, "test")


@pytest.mark.parametrize(("mode", "reads"), [("vector", True), ("off", False)])
@pytest.mark.parametrize("kind", ClientKind)
def test_the_global_model_encodes_training_samples_where_a_fusion_reads_them(
    kind: ClientKind, mode: str, reads: bool
) -> None:
    local = site(kind, mode=mode)
    counted = Counted(local._frozen.values())
    train_locally(local, 1)
    assert counted.rows == (rows_of(local, "train") if reads else 0)
    SiteEvaluator(local).views("val")
    assert counted.rows == (rows_of(local, "train") if reads else 0) + rows_of(local, "val")
