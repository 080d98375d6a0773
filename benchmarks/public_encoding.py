"""Encoding the public set: images and captions per second, and the share of the time spent waiting for data."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Clock, Ratio, Report, interleaved
from benchmarks.photographs import public_photographs
from fedafd.domain.config import parse_federation_config
from fedafd.domain.kinds import Modality
from fedafd.learning import feeding
from fedafd.learning.feeding import batches
from fedafd.learning.global_training import unpacked
from fedafd.learning.optimizers import choose_device
from fedafd.learning.public import PairTensors
from fedafd.learning.sample_encoder import SampleEncoder, encode_all
from fedafd.learning.server_round import initial_server_state


class _Watch:
    """Counts the seconds that encoding waits for its next batch."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        """As fedafd.learning.feeding.batches."""
        fed = batches(rows, size, device)
        while True:
            start = time.perf_counter()
            batch = next(fed, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def run(*, tiny: bool, repeats: int, clock: Clock, device: str = "auto") -> list[Report]:
    """The small preset's encoders on a decoded public set; the plain way decodes as it goes, with gradients on."""
    count = 32 if tiny else 1_000
    config = parse_federation_config({"name": "bench", "preset": "small"})
    place = choose_device(device)
    reports = []
    with tempfile.TemporaryDirectory(prefix="fedafd-bench-") as folder:
        public = public_photographs(count, Path(folder)).split("train")
        state = initial_server_state(config=config, captions=public.captions, seed=1)
        model, _ = unpacked(config, state)
        model.to(place)
        pairs = PairTensors(public, model.encoders)
        for modality, encoder in model.encoders.items():
            samples = public.images if modality is Modality.IMAGE else [captions[0] for captions in public.captions]
            watch = _Watch()
            original, feeding.batches = feeding.batches, watch.batches
            try:
                rows = pairs.fixed(modality)
                times = interleaved(
                    {
                        "decoded once": partial(encode_all, encoder, rows, place),
                        "plain": partial(_plain, encoder, samples, place),
                    },
                    repeats,
                )
            finally:
                feeding.batches = original
            seconds = times["decoded once"]
            waited = watch.seconds / (sum(seconds.wall) * (repeats + 1) / repeats)
            unit = "images" if modality is Modality.IMAGE else "captions"
            facts = {f"{unit} per second": f"{count / seconds.median(clock):,.0f}"}
            ratios = [
                Ratio("share of time waiting for data", waited, at_most=0.1),
                Ratio("times faster than plain", times["plain"].median(clock) / seconds.median(clock)),
            ]
            reports.append(Report("public_encoding", f"{count:,} {unit}", times, ratios, facts))
    return reports


def _plain(encoder: SampleEncoder, samples: object, device: torch.device) -> Tensor:
    encoder.eval()
    assert hasattr(samples, "__len__")
    parts = []
    for start in range(0, len(samples), 128):
        batch = encoder.read([samples[i] for i in range(start, min(start + 128, len(samples)))])  # type: ignore[index]
        parts.append(encoder(batch.to(device)).vector_BD.detach().cpu())
    return torch.cat(parts)
