"""Two rounds of the server and of each kind of client on a device and on the CPU: `python -m ... DEVICE OPTIMIZER...`.

A process of its own, since the device that stands in for a GPU stays in a process. It prints one JSON object: by
optimizer and participant how far the results of the two are apart, and the operators and syncs of a settled step on the
device. Each participant steps by each optimizer, and each of both trains encoders as a whole, their heads and by LoRA.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from benchmarks.gpu_steps import Steps
from tests.learning.tiny import IMAGE, TEXT, tiny_federation

from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import ClientKind
from fedafd.domain.process_errors import DivergedError
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_round import train_client
from fedafd.learning.ensemble import aggregate, fold_state
from fedafd.learning.feature_cache import keep_features
from fedafd.learning.server_round import Prepared, distil, evaluate, initial_server_state, prepare

BERT = {
    "architecture": "bert",
    "max_tokens": 6,
    "options": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
GRU = TEXT | {"max_tokens": 6}
TRAINED = {
    "adamp": {"server": "all", "image": "all", "text": "all", "pair": "all"},
    "adamw": {"server": "head", "image": "lora", "text": "all", "pair": "head"},
    "adam": {"server": "lora", "image": "head", "text": "lora", "pair": "all"},
    "sgd": {"server": "all", "image": "all", "text": "head", "pair": "lora"},
}
"""By optimizer and participant what is trained of an encoder. What AdamP lacks here, it trains besides."""
_SETTLED = 1


@dataclass
class _World:
    """What all rounds share; `places` are the two devices, the CPU first."""

    config: FederationConfig
    device: torch.device
    public: Any = field(default_factory=lambda: public_data(ShapesOptions(num_train=24, num_val=8, num_test=8, seed=1)))
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> tuple[str, str]:
        return "cpu", str(self.device)


def federation(optimizer: str, text: dict[str, Any], trainable: str = "all", **changes: Any) -> FederationConfig:
    """Small batches, so that a round has steps that are settled. Autocast is off, so that results can be compared."""
    kind = {"batch_size": 8, "optimizer": optimizer}
    exact = {"autocast": "off", "encode_autocast": "off"}
    return tiny_federation(
        image_encoder=IMAGE | {"trainable": trainable},
        text_encoder=text | {"trainable": trainable},
        server={"batch_size": 8, "optimizer": optimizer, "learning_rate": 0.002, "augment": True} | exact,
        client=exact | {"augment": True, "image": kind, "text": kind, "pair": kind},
        **changes,
    )


def server_rounds(world: _World, name: str) -> Prepared:
    """Each round trains, represents, folds a client in and distils; the second goes on from the first one's bytes."""
    made: dict[str, Prepared] = {}
    ensembles: dict[str, Any] = {}
    for place in world.places:
        keep_features(None)  # those of the CPU are not the device's
        state = initial_server_state(config=world.config, captions=world.public["train"].captions, seed=3)
        for number in (1, 2):
            steps = Steps(world.device, counting=place != "cpu" and number == 2)
            with steps.counter():
                made[place] = prepare(
                    config=world.config,
                    state=state,
                    public=world.public["train"],
                    round_number=number,
                    seed=4,
                    device=place,
                    processes=1,
                    progress=steps,
                )
            reps = made[place].representations
            folded = {
                m: fold_state(world.config, m, np.roll(rows, 1, axis=0), reps, device=place) for m, rows in reps.items()
            }
            ensembles[place] = {m: aggregate(world.config, blob) for m, blob in folded.items()}
            state = distil(
                config=world.config,
                state=made[place].state,
                public=world.public["train"],
                representations=reps,
                aggregates=ensembles[place],
                round_number=number,
                seed=6,
                device=place,
                processes=1,
            )
            evaluate(config=world.config, state=state, samples=world.public["test"], device=place)
    near, far = (made[place] for place in world.places)
    world.found[name] = _facts(near.representations, far.representations, near.state, far.state, steps)
    world.found[f"{name} ensemble"] = {"apart": _apart(*(ensembles[place] for place in world.places))}
    return near


def client_rounds(world: _World, kind: ClientKind, made: Prepared, trainable: str) -> None:
    """The second round goes on from the state of the first, the optimizers' moments included."""
    ends = []
    encoders = (world.config.image_encoder, world.config.text_encoder)
    image, text = (encoder.model_copy(update={"trainable": trainable}) for encoder in encoders)
    for place in world.places:
        keep_features(None)
        state = None
        for number in (1, 2):
            steps = Steps(world.device, counting=place != "cpu" and number == 2)
            with steps.counter():
                done = train_client(
                    config=world.config,
                    kind=kind,
                    image_encoder=image,
                    text_encoder=text,
                    data=client_data(kind, ShapesOptions(num_train=24, num_val=8, num_test=8, seed=2)),
                    public=world.public["train"],
                    global_representations=made.representations,
                    bundles=made.bundles,
                    state=state,
                    round_number=number,
                    seed=5,
                    device=place,
                    progress=steps,
                )
            state = done.state
        ends.append(done)
    near, far = ends
    world.found[f"{kind.value}, {trainable}"] = _facts(
        near.representations, far.representations, near.state, far.state, steps
    )


def diverges(world: _World) -> str:
    """What a round says whose loss is not a number, on the device."""
    broken = FederationConfig.model_validate(
        world.config.model_dump() | {"server": world.config.server.model_dump() | {"learning_rate": 1e30}}
    )
    state = initial_server_state(config=broken, captions=world.public["train"].captions, seed=3)
    try:
        prepare(
            config=broken, state=state, public=world.public["train"], round_number=1, seed=4, device=world.places[1]
        )
    except DivergedError as error:
        return str(error)
    return "it did not diverge"


def _facts(near: Any, far: Any, near_state: bytes, far_state: bytes, steps: Steps) -> dict[str, Any]:
    left, right = (Checkpoint.from_bytes(state).tensors for state in (near_state, far_state))
    operators, syncs = steps.counts[_SETTLED]
    return {
        "apart": _apart(near, far),
        "same_tensors": {k: str(v.dtype) for k, v in left.items()} == {k: str(v.dtype) for k, v in right.items()},
        "operators": operators.total(),
        "by_name": dict(operators.most_common(8)),
        "syncs": dict(syncs),
    }


def _apart(near: Any, far: Any) -> float:
    return max(float(np.abs(near[m] - far[m]).max()) for m in near)


def facts_of(optimizer: str, place: torch.device) -> dict[str, Any]:
    """What was found with one optimizer, by participant."""
    # One optimizer with a GRU, the others with a transformer.
    text, trained = GRU if optimizer == "adamp" else BERT, TRAINED[optimizer]
    world = _World(federation(optimizer, text, trained["server"]), place)
    made = server_rounds(world, f"server, {trained['server']}")
    for kind in ClientKind:
        client_rounds(world, kind, made, trained[kind.value])
    if optimizer == "adamp":
        client_rounds(world, ClientKind.IMAGE, made, "head")
        world.config = federation(optimizer, BERT, "lora")
        server_rounds(world, "server, lora")
        world.found["diverged"] = diverges(world)
    return world.found


def main(device: str, *optimizers: str) -> None:
    """Print what was found."""
    if device == "stand-in":
        from benchmarks.stand_in import DEVICE, stand_in

        place, entered = DEVICE, stand_in()
    else:
        place, entered = torch.device(device), nullcontext()  # type: ignore[assignment]
    torch.set_num_threads(1)
    with entered:
        print(json.dumps({optimizer: facts_of(optimizer, place) for optimizer in optimizers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
