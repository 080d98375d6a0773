"""An average weighs by the samples that sites tell; one that tells none counts as the mean of the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.learning.tiny import tiny_bundles, tiny_federation, tiny_private, tiny_state

from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.fedavg import average_updates, weight_update
from fedafd.learning.local_site import LocalSite, Sent

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


def test_a_site_asks_for_the_average_of_its_states_group_and_begins_with_it() -> None:
    torch.set_num_threads(1)
    bundles, kind = tiny_bundles(), ClientKind.TEXT
    bundles = {Modality.TEXT: bundles[Modality.TEXT]}
    state = Checkpoint.from_bytes(tiny_state(kind, bundles))
    moved = Checkpoint(meta=state.meta, tensors={name: value + 1 for name, value in state.tensors.items()})
    averages, asked = average_updates([weight_update(moved, 3)]), []

    def average_of(group: str) -> bytes | None:
        asked.append(group)
        return averages.get(group)

    sent = Sent(representations={}, bundles=bundles, public=None, average_of=average_of)
    local = LocalSite(tiny_federation(), kind, {}, tiny_private(kind), state.to_bytes(), 5, "cpu", sent=sent)
    assert asked == list(averages)
    torch.testing.assert_close(local.model.state_dict()["head.free_weight"], moved.tensors["model/head.free_weight"])
    LocalSite(tiny_federation(), kind, {}, tiny_private(kind), None, 5, "cpu", sent=sent)
    assert asked == list(averages)
