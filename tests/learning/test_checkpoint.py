"""A checkpoint holds copies of its own, each made once, wherever the tensors are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.device_operators import DeviceOperators
from tests.learning.test_local_training import site
from torch import nn
from torch._subclasses import FakeTensorMode

from fedafd.domain.kinds import ClientKind
from fedafd.learning.checkpoint import Checkpoint, InPlace, Snapshot
from fedafd.learning.global_training import GlobalRun
from fedafd.learning.local_site import LocalSite
from fedafd.learning.server_round import initial_server_state


def test_what_is_kept_does_not_change_with_the_module_and_lies_in_order() -> None:
    module = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(module.parameters(), amsgrad=False)
    module(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    kept = Checkpoint()
    kept.add_module("model", module)
    kept.add_optimizer("main", optimizer)
    before = module.weight.detach().clone()
    moment = optimizer.state[module.weight]["exp_avg"].clone()
    with torch.no_grad():
        module.weight.zero_()
        optimizer.state[module.weight]["exp_avg"].zero_()
    assert torch.equal(kept.tensors["model/weight"], before)
    assert torch.equal(kept.tensors["main/0/exp_avg"], moment)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in kept.tensors.values())


def test_a_state_comes_from_a_gpu_in_one_copy_of_each_tensor() -> None:
    with FakeTensorMode():
        module = nn.Linear(4, 3, device="cuda")
        with DeviceOperators(torch.device("cuda")) as on_gpu, DeviceOperators(torch.device("cpu")) as on_host:
            Checkpoint().add_module("model", module)
    # `device` is what fake tensors ask of themselves.
    for seen in (on_gpu, on_host):
        assert {name: count for name, count in seen.operators.items() if name != "device"} == {"_to_copy": 2}


@pytest.mark.parametrize("kind", [Checkpoint, Snapshot])
def test_a_file_holds_the_bytes_of_to_bytes(kind: type[Checkpoint], tmp_path: Path) -> None:
    kept = kind({"b/x": torch.arange(6.0).view(2, 3), "a": torch.tensor(3)}, {"done": 2})
    kept.add_module("model", nn.Linear(3, 2).half())
    kept.write(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == kept.to_bytes()
    with pytest.raises(OSError, match="nowhere"):
        kept.write(tmp_path / "nowhere" / "state")


def test_what_is_done_to_a_nested_checkpoint_stays_there() -> None:
    outer = Checkpoint()
    outer.add_nested("alone", Checkpoint({"x": torch.ones(1)}, {"labels": ["a"]}))
    inner = outer.nested("alone")
    assert inner is not None
    inner.meta["labels"].append("b")
    inner.drop("x")
    assert outer.meta["alone"] == {"labels": ["a"]}


def test_tensors_in_place_make_the_same_bytes_and_those_that_share_memory_are_copied() -> None:
    layer = nn.Linear(3, 3)
    tied = nn.Sequential(layer, nn.Linear(3, 3), nn.BatchNorm1d(3))
    tied[1].weight = layer.weight
    tied.register_buffer("across", torch.arange(6.0).view(2, 3).T)
    tied.register_buffer("repeated", torch.ones(1, 4).expand(3, 4))
    blobs = []
    for kind in (Checkpoint, InPlace):
        kept = kind()
        kept.add_module("model", tied)
        inner = kind()
        inner.add_module("model", layer)
        kept.add_nested("inner", inner)
        blobs.append(kept.to_bytes())
    assert blobs[0] == blobs[1]


@pytest.mark.parametrize("who", [*ClientKind, "server"])
def test_a_state_on_the_cpu_is_made_from_where_its_tensors_lie(who: str) -> None:
    if who == "server":
        local = site(ClientKind.PAIR)
        state = initial_server_state(config=local.config, captions=[("a red circle",)], seed=3)
        trained: LocalSite | GlobalRun = GlobalRun(local.config, state, 1, 2, "cpu")
    else:
        trained = site(ClientKind(who))
    with DeviceOperators(torch.device("cpu")) as counted:
        state = trained.state()
    assert counted.operators.total() == 0, counted.operators
    assert trained.saving()() == state
