"""An average weighs by the samples that sites tell; one that tells none counts as the mean of the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from fedafd.domain.errors import DataError
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.fedavg import average_updates

GROUP = "image-00000000-0000000000000000"


def average(counts: Sequence[int], values: Sequence[float]) -> tuple[float, dict[str, object]]:
    updates = []
    for count, value in zip(counts, values, strict=True):
        update = Checkpoint(meta={"group": GROUP, "num_private_samples": count})
        update.tensors["model/w"] = torch.tensor([value])
        updates.append(update.to_bytes())
    made = Checkpoint.from_bytes(average_updates(updates)[GROUP])
    return made.tensors["model/w"].item(), made.meta


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ((10, 30), (0.25, 0.75)),
        ((0, 0), (0.5, 0.5)),
        ((0, 10, 30), (1 / 3, 10 / 60, 30 / 60)),
        ((0, 7), (0.5, 0.5)),
    ],
)
def test_clients_count_by_what_they_tell(counts: tuple[int, ...], shares: tuple[float, ...]) -> None:
    for place, share in enumerate(shares):
        values = [float(place == other) for other in range(len(counts))]
        assert average(counts, values)[0] == pytest.approx(share, abs=1e-6)


def test_the_average_tells_nobody_how_many_samples_the_others_have() -> None:
    _, meta = average((10, 30), (1.0, 2.0))
    assert "num_private_samples" not in meta


def test_a_number_below_zero_is_refused() -> None:
    with pytest.raises(DataError, match="is -1"):
        average((-1, 3), (1.0, 2.0))
