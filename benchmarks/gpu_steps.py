"""A step of the server and of each kind of client on a device: operators, syncs, and on a GPU also time and busy share.

Without a GPU the counts are taken on benchmarks.stand_in; there is nothing to time.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch

from benchmarks.device_operators import DeviceOperators
from benchmarks.measure import Clock, Ratio, Report, Times
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind
from fedafd.learning.client_round import train_client
from fedafd.learning.server_round import Prepared, initial_server_state, prepare

__all__ = ["Steps", "run"]

_IMAGE: dict[str, Any] = {
    "architecture": "resnet",
    "image_size": 96,
    "options": {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
}
"""ResNet-18 by its sizes."""
_TEXT: dict[str, Any] = {
    "architecture": "bert",
    "options": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
}
"""MiniLM-L6 by its sizes."""
_TINY_IMAGE = _IMAGE | {"image_size": 32, "options": _IMAGE["options"] | {"hidden_sizes": [8, 16], "depths": [1, 1]}}
_TINY_TEXT = _TEXT | {
    "options": _TEXT["options"] | {"hidden_size": 24, "num_hidden_layers": 1, "intermediate_size": 48}
}
"""The same operators, narrow and few."""
_NARROW_IMAGE = _IMAGE | {"image_size": 32, "options": _IMAGE["options"] | {"hidden_sizes": [8, 16, 24, 32]}}
_NARROW_TEXT = _TEXT | {"options": _TEXT["options"] | {"hidden_size": 24, "intermediate_size": 48}}
"""As deep as the whole ones, so that there are as many operators; for a stand-in, which computes them on a CPU."""
_AUTOCASTS = ("bfloat16", "off")
"""What a GPU does by default, whose casts are operators, too, and float32. Named, since `auto` casts on CUDA alone."""
_STEPS = ("public pass", "local epoch")
_SETTLED = 3
"""Steps before this one also do what is done once."""


class Steps:
    """Told of each step by a round's `progress`, notes what came between one and the next."""

    def __init__(self, device: torch.device, *, counting: bool) -> None:
        self.device = device
        self.counts: list[tuple[Counter[str], Counter[str]]] = []
        """Operators and syncs of each step, by name."""
        self.seconds: list[float] = []
        self._counter = DeviceOperators(device) if counting else None
        self._seen: tuple[Counter[str], Counter[str]] | None = None
        self._at: float | None = None

    def __call__(self, share: float, activity: object) -> None:
        """For `progress`; steps are told of by passes and epochs, other activities end them."""
        is_step = str(activity).startswith(_STEPS)
        if self._counter is not None:
            now = self._counter.operators.copy(), self._counter.syncs.copy()
            if self._seen is not None:
                self.counts.append((now[0] - self._seen[0], now[1] - self._seen[1]))
            self._seen = now if is_step else None
        elif self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            at = time.perf_counter()
            if self._at is not None:
                self.seconds.append(at - self._at)
            self._at = at if is_step else None

    def counter(self) -> AbstractContextManager[Any]:
        """To be entered around the round."""
        return nullcontext() if self._counter is None else self._counter


def run(*, tiny: bool, repeats: int, clock: Clock, device: str) -> list[Report]:
    """One case for the server and one per kind of client; `device` is cuda, cpu or stand-in."""
    with ExitStack() as stack:
        if device == "stand-in":
            from benchmarks.stand_in import stand_in

            place = stack.enter_context(stand_in())
        else:
            place = torch.device(device)
        return [
            _case(f"{name}, autocast {autocast}", work, place)
            for autocast in _AUTOCASTS
            for name, work in _rounds(tiny, place, autocast)
        ]


def _rounds(tiny: bool, device: torch.device, autocast: str) -> Iterator[tuple[str, Callable[[Any], object]]]:
    config, name = _config(tiny, autocast, narrow=device.type not in ("cpu", "cuda")), str(device)
    samples = 6 * config.server.batch_size
    public = public_data(ShapesOptions(num_train=samples, num_val=8, num_test=8, seed=1))["train"]
    state = initial_server_state(config=config, captions=public.captions, seed=1)
    made: list[Prepared] = []

    def server(steps: Any) -> None:
        made.append(
            prepare(
                config=config,
                state=state,
                public=public,
                round_number=1,
                seed=1,
                device=name,
                processes=1,
                progress=steps,
            )
        )

    def client(kind: ClientKind) -> Callable[[Any], object]:
        size = 6 * config.client.for_kind(kind).batch_size
        return lambda steps: train_client(
            config=config,
            kind=kind,
            image_encoder=None,
            text_encoder=None,
            data=client_data(kind, ShapesOptions(num_train=size, num_val=8, num_test=8, seed=2)),
            public=public,
            global_representations=made[-1].representations,
            bundles=made[-1].bundles,
            state=None,
            round_number=1,
            seed=1,
            device=name,
            progress=steps,
        )

    yield "server", server
    for kind in ClientKind:
        yield f"{kind.value} client", client(kind)


def _config(tiny: bool, autocast: str, *, narrow: bool) -> FederationConfig:
    size = {"batch_size": 8 if tiny or narrow else 32}
    wide = (_NARROW_IMAGE, _NARROW_TEXT) if narrow else (_IMAGE, _TEXT)
    image, text = (_TINY_IMAGE, _TINY_TEXT) if tiny else wide
    client = {"local_epochs": 1, "autocast": autocast} | {kind.value: size for kind in ClientKind}
    values = {"name": "steps", "preset": "small", "image_encoder": image, "text_encoder": text, "client": client}
    server = {"passes": 1, "initial_passes": 0, "batch_size": 8 if tiny or narrow else 128, "autocast": autocast}
    return parse_federation_config(values | {"server": server})


def _case(name: str, work: Callable[[Any], object], device: torch.device) -> Report:
    counted = Steps(device, counting=True)
    with counted.counter():
        work(counted)
    operators, syncs = counted.counts[_SETTLED]
    ratios = [
        Ratio("operators a step", operators.total()),
        Ratio("syncs a step", syncs.total(), at_most=None if device.type == "cpu" else 2),
    ]
    facts: dict[str, Any] = {"syncs by operator": dict(syncs)}
    report = Report("gpu_steps", f"{name} on {device.type}", ratios=ratios, facts=facts)
    if device.type == "cuda":
        timed = Steps(device, counting=False)
        work(timed)
        report.times["step"] = Times(timed.seconds[_SETTLED:], timed.seconds[_SETTLED:])
        facts |= _busy(work, device, statistics.median(timed.seconds[_SETTLED:]))
    return report


def _busy(work: Callable[[Any], object], device: torch.device, step_seconds: float) -> dict[str, Any]:
    """Kernels and the device's own time of a settled step, from torch's profiler."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    marks: list[Any] = []

    def progress(share: float, activity: object) -> None:
        if not str(activity).startswith(_STEPS):
            return
        marks.append(None)
        if len(marks) == _SETTLED + 1:
            torch.cuda.synchronize(device)
            profiler.start()
        elif len(marks) == _SETTLED + 2:
            torch.cuda.synchronize(device)
            profiler.stop()

    profiler = torch.profiler.profile(activities=kinds)
    work(progress)
    cuda = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
    kernels = [event for event in profiler.events() if event.device_type == cuda]
    spent = sum(event.device_time_total for event in kernels) / 1e6
    return {"kernels a step": len(kernels), "busy share, percent": round(100 * spent / step_seconds, 1)}
