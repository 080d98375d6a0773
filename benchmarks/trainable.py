"""A round by what of the encoders is trained: all of them, the projection alone (head), or small matrices (lora).

Seconds are of a later round, whose frozen features are kept; the first one, which computes them, is told apart. Bytes
are those of a pair client's round: what comes down, what of it changed since the round before, and what goes up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from benchmarks.measure import Clock, Ratio, Report, interleaved
from fedafd.artifacts.folders import unpack_folder
from fedafd.artifacts.representations import encode_representations
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind
from fedafd.learning.client_round import ClientRound, train_client
from fedafd.learning.feature_cache import keep_features
from fedafd.learning.fedavg import weight_update
from fedafd.learning.server_round import Prepared, distil, initial_server_state, prepare

_MODES = ("all", "head", "lora")
_IMAGE_SIZE = 224
"""Of pretrained encoders: what nearly all of them are trained on."""
_TINY = (
    {
        "architecture": "resnet",
        "image_size": 32,
        "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    },
    {
        "architecture": "bert",
        "max_tokens": 16,
        "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    },
)
_SMALL = (
    {
        "architecture": "resnet",
        "image_size": 64,
        "options": {
            "embedding_size": 64,
            "hidden_sizes": [64, 128, 256, 512],
            "depths": [2, 2, 2, 2],
            "layer_type": "basic",
        },
    },
    {
        "architecture": "bert",
        "max_tokens": 24,
        "options": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    },
)
"""ResNet-18 and a BERT of MiniLM's size, with fresh weights: time and bytes do not depend on their values."""


@dataclass(frozen=True)
class _Begun:
    """A federation of one pair client after its first round; what round 2 starts from."""

    config: FederationConfig
    seconds: float
    """Of the first round."""
    prepared: Prepared
    client: ClientRound


class _Rounds:
    def __init__(self, sizes: tuple[int, int], device: str) -> None:
        self.public = public_data(ShapesOptions(num_train=sizes[0], num_val=8, num_test=8, seed=1))["train"]
        self.private = client_data(ClientKind.PAIR, ShapesOptions(num_train=sizes[1], num_val=16, num_test=16, seed=2))
        self.device = device

    def begin(self, config: FederationConfig) -> _Begun:
        state = initial_server_state(config=config, captions=self.public.captions, seed=1)
        began = time.perf_counter()
        prepared = self.prepare(config, state, 1)
        client = self.train(config, prepared, None, 1)
        return _Begun(config, time.perf_counter() - began, prepared, client)

    def prepare(self, config: FederationConfig, state: bytes, number: int) -> Prepared:
        return prepare(
            config=config, state=state, public=self.public, round_number=number, seed=number, device=self.device
        )

    def train(self, config: FederationConfig, made: Prepared, state: bytes | None, number: int) -> ClientRound:
        return train_client(
            config=config,
            kind=ClientKind.PAIR,
            image_encoder=None,
            text_encoder=None,
            data=self.private,
            public=self.public,
            global_representations=made.representations,
            bundles=made.bundles,
            state=state,
            round_number=number,
            seed=number,
            device=self.device,
        )

    def server(self, begun: _Begun) -> None:
        """The server's part of round 2."""
        made = self.prepare(begun.config, begun.prepared.state, 2)
        distil(
            config=begun.config,
            state=made.state,
            public=self.public,
            representations=made.representations,
            aggregates=begun.client.representations,
            round_number=2,
            seed=2,
            device=self.device,
        )

    def client(self, begun: _Begun) -> None:
        """The client's part of round 2."""
        self.train(begun.config, begun.prepared, begun.client.state, 2)

    def bytes_of(self, begun: _Begun) -> dict[str, int]:
        later = self.prepare(begun.config, begun.prepared.state, 2)
        sent = encode_representations(begun.client.representations, "0" * 64, begun.config.wire_dtype)
        return {
            "encoder bundles": sum(len(bundle) for bundle in later.bundles.values()),
            "of them, tensors that changed": sum(
                _changed_bytes(begun.prepared.bundles[modality], bundle) for modality, bundle in later.bundles.items()
            ),
            "representations up": len(sent),
            "weights up, where they are averaged": len(weight_update(begun.client.state, 0)),
        }


def run(
    *,
    tiny: bool,
    repeats: int,
    clock: Clock,
    device: str = "auto",
    image_weights: Path | None = None,
    text_weights: Path | None = None,
    modes: Sequence[str] = (),
) -> list[Report]:
    """The server's and a pair client's round, each by mode, and the bytes between them.

    `modes`: those of all, head and lora that are wanted; without any all are. Raises ValueError for another.
    """
    for mode in modes:
        if mode not in _MODES:
            raise ValueError(f"{mode} is none of {', '.join(_MODES)}")
    encoders = _encoders(_TINY if tiny else _SMALL, image_weights, text_weights)
    sizes = (32, 32) if tiny else (512, 320)
    rounds = _Rounds(sizes, device)
    has_peft = find_spec("peft") is not None
    keep_features(None)
    wanted = [mode for mode in modes or _MODES if mode != "lora" or has_peft]
    begun = {mode: rounds.begin(_federation(encoders, mode)) for mode in wanted}
    case = f"{sizes[0]} public and {sizes[1]} private pairs, {_named(encoders)}"
    reports = [
        _timed("server, prepare and distil", case, rounds.server, begun, repeats, clock),
        _timed("pair client", case, rounds.client, begun, repeats, clock),
    ]
    for mode, each in begun.items():
        reports[1].facts |= {f"bytes, {name}, {mode}": count for name, count in rounds.bytes_of(each).items()}
        reports[1].facts[f"seconds of round 1, preparation and client, {mode}"] = round(each.seconds, 2)
    if not has_peft and "lora" in (modes or _MODES):
        reports.append(Report("trainable", "lora", skipped="the extra `lora` is not installed"))
    keep_features(None)
    return reports


def _timed(who: str, case: str, way: Any, begun: dict[str, _Begun], repeats: int, clock: Clock) -> Report:
    times = interleaved({mode: partial(way, each) for mode, each in begun.items()}, repeats)
    first, *others = begun
    ratios = [
        Ratio(f"times faster with {mode} than with {first}", times[first].median(clock) / times[mode].median(clock))
        for mode in others
    ]
    return Report("trainable", f"{who}: {case}", times, ratios)


def _encoders(
    fresh: tuple[dict[str, Any], dict[str, Any]], image_weights: Path | None, text_weights: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    image, text = fresh
    if image_weights is not None:
        image = {"architecture": "auto", "pretrained": str(image_weights), "image_size": _IMAGE_SIZE}
    if text_weights is not None:
        text = {"architecture": "auto", "pretrained": str(text_weights), "max_tokens": text["max_tokens"]}
    return image, text


def _named(encoders: tuple[dict[str, Any], dict[str, Any]]) -> str:
    return " and ".join(Path(each.get("pretrained", each["architecture"])).name for each in encoders)


def _federation(encoders: tuple[dict[str, Any], dict[str, Any]], mode: str) -> FederationConfig:
    image, text = (each | {"trainable": mode} for each in encoders)
    return parse_federation_config(
        {
            "name": "bench",
            "preset": "small",
            "seed": 1,
            "embedding_dim": 128,
            "image_encoder": image,
            "text_encoder": text,
            "server": {"passes": 1, "initial_passes": 0},
            "client": {"local_epochs": 2, "vocabulary": "public"},
            "distillation": {"start_round": 1},
        }
    )


def _changed_bytes(before: bytes, after: bytes) -> int:
    old, new = (load(unpack_folder(bundle)["model.safetensors"]) for bundle in (before, after))
    return sum(value.nbytes for name, value in new.items() if name not in old or not torch.equal(old[name], value))
