"""Rounds on a device, step by step and recorded: `python -m tests.learning.recorded_rounds DEVICE`.

A process of its own, as tests.learning.device_rounds is. It prints one JSON object: by participant how far the states
of the two are apart, how often a step was recorded, and what a settled step of the second asks of the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from benchmarks.gpu_steps import Steps
from tests.learning.device_rounds import BERT, federation
from torch import Tensor

from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import ClientKind
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_round import train_client
from fedafd.learning.recorded_steps import RECORDERS, Recorder
from fedafd.learning.server_round import Prepared, initial_server_state, prepare

DROPOUT = BERT | {"options": BERT["options"] | {"hidden_dropout_prob": 0.3}}  # type: ignore[operator]
_SETTLED = 4


class Counted:
    """A device's own recorder, and how often any of them recorded."""

    recordings = 0

    def __init__(self, inner: Recorder) -> None:
        self.warm, self._inner = inner.warm, inner

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        made = self._inner.record(work)
        Counted.recordings += 1
        return made


def configured(optimizer: str, device: torch.device, *, recorded: bool) -> FederationConfig:
    # A GPU draws other numbers in a replay than it would have in a step.
    made = federation(optimizer, BERT if device.type == "cuda" else DROPOUT)
    changes = {
        "server": made.server.model_dump() | {"passes": 2, "graph": recorded},
        "client": made.client.model_dump() | {"local_epochs": 2, "graph": recorded},
    }
    return FederationConfig.model_validate(made.model_dump() | changes)


def compared(device: torch.device, work: Callable[[bool, Any], bytes]) -> dict[str, Any]:
    """What both ways end with; `work` does one of them and gives its state."""
    ends, Counted.recordings = [], 0
    for recorded in (False, True):
        steps = Steps(device, counting=recorded)
        with steps.counter():
            ends.append(Checkpoint.from_bytes(work(recorded, steps)).tensors)
    plain, replayed = ends
    operators, syncs = steps.counts[_SETTLED]
    return {
        "apart": max(float((plain[name].double() - replayed[name].double()).abs().max()) for name in plain),
        "same_tensors": {k: str(v.dtype) for k, v in plain.items()} == {k: str(v.dtype) for k, v in replayed.items()},
        "recordings": Counted.recordings,
        "operators": operators.total(),
        "syncs": syncs.total(),
    }


def server(device: torch.device, optimizer: str, made: list[Prepared]) -> dict[str, Any]:
    public = public_data(ShapesOptions(num_train=24, num_val=8, num_test=8, seed=1))["train"]

    def work(recorded: bool, steps: Any) -> bytes:
        config = configured(optimizer, device, recorded=recorded)
        state = initial_server_state(config=config, captions=public.captions, seed=3)
        for number in (1, 2):
            done = prepare(
                config=config,
                state=state,
                public=public,
                round_number=number,
                seed=4,
                device=str(device),
                progress=steps if number == 2 else lambda *_: None,
            )
            state = done.state
        made.append(done)
        return state

    return compared(device, work)


def client(device: torch.device, kind: ClientKind, made: Prepared, optimizer: str) -> dict[str, Any]:
    public = public_data(ShapesOptions(num_train=24, num_val=8, num_test=8, seed=1))["train"]

    def work(recorded: bool, steps: Any) -> bytes:
        done = train_client(
            config=configured(optimizer, device, recorded=recorded),
            kind=kind,
            image_encoder=None,
            text_encoder=None,
            data=client_data(kind, ShapesOptions(num_train=24, num_val=8, num_test=8, seed=2)),
            public=public,
            global_representations=made.representations,
            bundles=made.bundles,
            state=None,
            round_number=1,
            seed=5,
            device=str(device),
            progress=steps,
        )
        return done.state

    return compared(device, work)


def main(name: str) -> None:
    """Print what was found."""
    torch.set_num_threads(1)
    if name == "stand-in":
        from benchmarks.stand_in import DEVICE, stand_in
        from tests.learning.tape import TapeRecorder

        device, entered = DEVICE, stand_in()
        RECORDERS[device.type] = TapeRecorder
    else:
        device, entered = torch.device(name), nullcontext()  # type: ignore[assignment]
    own = RECORDERS[device.type]
    RECORDERS[device.type] = lambda place: Counted(own(place))
    made: list[Prepared] = []
    with entered:
        found = {"server, adamp": server(device, "adamp", made)}
        for kind, optimizer in (
            (ClientKind.IMAGE, "adam"),
            (ClientKind.TEXT, "adamp"),
            (ClientKind.PAIR, "sgd"),
        ):
            found[f"{kind.value}, {optimizer}"] = client(device, kind, made[0], optimizer)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
