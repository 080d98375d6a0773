"""Golden losses: what a seeded tiny federation loses and measures under each strategy, so that a change of numerics
is seen. `make golden` writes them anew, after a change that is meant; say in the commit what moved them.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tests.simulation.tiny_federation import clients, config, public_set
from torch import Tensor

from fedafd.domain.kinds import ClientKind
from fedafd.domain.strategies import ABLATIONS, STRATEGIES
from fedafd.learning.optimizers import LossCheck
from fedafd.simulation.federation import Federation, FederationProgress

__all__ = ["ALL", "FILE", "committed", "here", "recorded"]

FILE = Path(__file__).with_name("golden_losses.json")
ALL = sorted({**STRATEGIES, **ABLATIONS})
Figures = dict[str, list[float]]
_CLIENT = {kind.value: {"batch_size": 8} for kind in ClientKind}
"""Several steps for each client, so that what a step changes is seen in the next."""


def here() -> dict[str, str]:
    """What decides the bits of a sum of floats: where all of it is the same, so are the figures."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
    }


def recorded(strategy: str) -> tuple[list[Figures], FederationProgress]:
    """Of each of two rounds: the loss of every training step, and the metrics of the server and of every client; and
    the progress after the second."""
    federation = Federation(config(strategy, client=_CLIENT), public_set(), clients(), device="cpu")
    progress, made = FederationProgress(), []
    with _one_thread(), _losses() as losses:
        for _ in range(2):
            progress = federation.run_round(progress)
            made.append(_figures(progress, losses))
            losses.clear()
    return made, progress


def committed() -> Any:
    """What FILE holds: `platform`, and `strategies` with the figures of each round."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def _figures(progress: FederationProgress, losses: Sequence[tuple[str, float]]) -> Figures:
    figures: Figures = {f"losses, {place}": [] for place, _ in losses}
    for place, loss in losses:
        figures[f"losses, {place}"].append(loss)
    metrics: dict[str, Mapping[str, float]] = {"server": {} if progress.server is None else progress.server.metrics}
    metrics |= {name: client.metrics for name, client in progress.clients.items()}
    for who, own in metrics.items():
        figures |= {f"{who}, {name}": [value] for name, value in own.items()}
    return figures


@contextmanager
def _losses() -> Iterator[list[tuple[str, float]]]:
    """The losses of all training steps while it is open, each with the place that the training names."""
    seen: list[tuple[str, float]] = []
    add = LossCheck.add

    def recording(check: LossCheck, loss: Tensor) -> None:
        seen.append((check.where, float(loss.detach())))
        add(check, loss)

    LossCheck.add = recording  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        LossCheck.add = add  # type: ignore[method-assign]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are split among threads, so that their number decides bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def main() -> None:
    """Write FILE."""
    figures = {strategy: recorded(strategy)[0] for strategy in ALL}
    text = json.dumps({"platform": here(), "strategies": figures}, indent=1)
    a_line_each = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)
    FILE.write_text(a_line_each + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
