"""SED: folding all clients of a modality, against the N x N form and against the bare matrix products.

Shape legend: K clients, N public samples, D embedding dimension.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Clock, Ratio, Report, interleaved, peak_extra_bytes
from fedafd.algorithm.distillation import SimilarityEnsemble
from fedafd.algorithm.similarity import _CPU_BLOCK, _DEVICE_BLOCK, Precision, has_bfloat16

_DIM, _TAU = 256, 0.1


def run(*, tiny: bool, repeats: int, clock: Clock, device: str = "cpu") -> list[Report]:
    """N = 10,000 with K = 10; N = 50,000; bfloat16; memory, all on the CPU; a GPU as `device` also at both N."""
    samples, clients, many = (400, 3, 900) if tiny else (10_000, 10, 50_000)
    cpu = torch.device("cpu")
    reports = [_at_size(samples, clients, repeats, clock, cpu), _large(many, min(repeats, 3), clock)]
    reports += [_bfloat16(samples, repeats, clock), _memory(samples, clients)]
    if torch.device(device).type == "cuda":
        place = torch.device(device)
        reports.append(_on_gpu(samples, clients, repeats, clock, place))
        reports.append(_on_gpu(many, 2, repeats, clock, place, whole=False))
    else:
        reports.append(Report("sed", "GPU", skipped=f"the device is {device}"))
    return reports


def all_at_once(global_ND: Tensor, reps: list[Tensor]) -> Tensor:
    """The formula as written down: each client's whole N x N matrix, its exponential, its log-softmax, the diagonal."""
    scores = []
    for reps_ND in reps:
        logits_NN = reps_ND @ global_ND.T / _TAU
        log_share_NN = logits_NN - torch.log(torch.exp(logits_NN).sum(dim=1, keepdim=True))
        scores.append(torch.diagonal(log_share_NN))
    weights_KN = torch.stack(scores).softmax(dim=0)
    return (weights_KN[:, :, None] * torch.stack(reps)).sum(dim=0)


def streaming(global_ND: Tensor, reps: Iterator[Tensor] | list[Tensor], precision: Precision = "float32") -> Tensor:
    """What the distiller does: fold each client in as it comes."""
    ensemble = SimilarityEnsemble(global_ND, _TAU, precision=precision)
    for reps_ND in reps:
        ensemble.add(reps_ND)
    return ensemble.result()


def bare_products(global_ND: Tensor, reps: list[Tensor]) -> None:
    """The matrix products alone, block by block into the same memory."""
    rows, columns = _CPU_BLOCK if global_ND.device.type == "cpu" else _DEVICE_BLOCK
    flat = global_ND.new_empty(rows * columns)
    for reps_ND in reps:
        for top in range(0, len(reps_ND), rows):
            for left in range(0, len(global_ND), columns):
                one, two = reps_ND[top : top + rows], global_ND[left : left + columns]
                torch.mm(one, two.T, out=flat[: len(one) * len(two)].view(len(one), len(two)))


def _inputs(samples: int, clients: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    global_ND = F.normalize(torch.randn(samples, _DIM, generator=generator), dim=1)
    reps = [
        F.normalize(global_ND + 0.1 * torch.randn(samples, _DIM, generator=generator), dim=1).to(device)
        for _ in range(clients)
    ]
    return global_ND.to(device), reps


def _at_size(samples: int, clients: int, repeats: int, clock: Clock, device: torch.device) -> Report:
    global_ND, reps = _inputs(samples, clients, device)
    torch.testing.assert_close(streaming(global_ND, reps[:2]), all_at_once(global_ND, reps[:2]), atol=1e-5, rtol=1e-4)
    ways: dict[str, Callable[[], object]] = {
        "streaming": lambda: streaming(global_ND, reps),
        "bare products": lambda: bare_products(global_ND, reps),
        "all at once, N x N": lambda: all_at_once(global_ND, reps),
    }
    times = interleaved(ways, repeats)
    ours, bare, whole = (times[name].median(clock) for name in ways)
    return Report(
        "sed",
        f"N={samples:,} D={_DIM} K={clients}",
        times,
        [
            Ratio("times faster than all at once", whole / ours, at_least=4.0),
            Ratio("times the bare products", ours / bare, at_most=1.3),
            Ratio("times faster the bare products alone are than all at once", whole / bare),
        ],
    )


def _large(samples: int, repeats: int, clock: Clock) -> Report:
    global_ND, reps = _inputs(samples, 1, torch.device("cpu"))
    ways: dict[str, Callable[[], object]] = {
        "streaming": lambda: streaming(global_ND, reps),
        "bare products": lambda: bare_products(global_ND, reps),
    }
    times = interleaved(ways, repeats)
    ratio = times["streaming"].median(clock) / times["bare products"].median(clock)
    matrix = {"an N x N matrix would take": f"{samples**2 * 4 / 1e9:.3g} GB"}
    return Report(
        "sed", f"N={samples:,} D={_DIM} K=1", times, [Ratio("times the bare products", ratio, at_most=1.3)], matrix
    )


def _bfloat16(samples: int, repeats: int, clock: Clock) -> Report:
    if not has_bfloat16(torch.device("cpu")):
        return Report("sed", "bfloat16", skipped="this CPU has no bfloat16 products")
    global_ND, reps = _inputs(samples, 2, torch.device("cpu"))
    exact, near = streaming(global_ND, reps), streaming(global_ND, reps, "bfloat16")
    ways: dict[str, Callable[[], object]] = {
        "float32": lambda: streaming(global_ND, reps),
        "bfloat16": lambda: streaming(global_ND, reps, "bfloat16"),
        "all at once, N x N": lambda: all_at_once(global_ND, reps),
    }
    times = interleaved(ways, repeats)
    whole = times["all at once, N x N"].median(clock)
    return Report(
        "sed",
        f"bfloat16, N={samples:,} K=2",
        times,
        [
            Ratio("float32 over bfloat16", times["float32"].median(clock) / times["bfloat16"].median(clock)),
            Ratio("times faster than all at once", whole / times["bfloat16"].median(clock), at_least=4.0),
        ],
        {"largest error of the ensemble": f"{float((exact - near).abs().max()):.1e}"},
    )


def _memory(samples: int, clients: int) -> Report:
    code = f"from benchmarks.sed import print_peak; print_peak({samples}, {clients})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    megabytes = int(done.stdout) / 1e6
    return Report(
        "sed", f"memory, N={samples:,} K={clients}", ratios=[Ratio("extra MB at the peak", megabytes, at_most=150)]
    )


def print_peak(samples: int, clients: int) -> None:
    """In a fresh process: bytes that folding needs beyond its inputs; a client's representations at a time."""
    global_ND, reps = _inputs(samples, 1, torch.device("cpu"))
    streaming(*_inputs(64, 1, torch.device("cpu")))  # what torch loads at its first product is not ours
    print(peak_extra_bytes(lambda: streaming(global_ND, reps * clients)))


def _waited_for(device: torch.device, work: Callable[[], object]) -> Callable[[], None]:
    def to_the_end() -> None:
        work()
        torch.cuda.synchronize(device)

    return to_the_end


def _on_gpu(
    samples: int, clients: int, repeats: int, clock: Clock, device: torch.device, *, whole: bool = True
) -> Report:
    global_ND, reps = _inputs(samples, clients, device)
    ways: dict[str, Callable[[], object]] = {
        "streaming": _waited_for(device, lambda: streaming(global_ND, reps)),
        "rounded": _waited_for(device, lambda: streaming(global_ND, reps, "bfloat16")),
        "bare products": _waited_for(device, lambda: bare_products(global_ND, reps)),
    }
    if whole:
        ways["all at once, N x N"] = _waited_for(device, lambda: all_at_once(global_ND, reps))
    times = interleaved(ways, repeats)
    median = {name: times[name].median(clock) for name in ways}
    ratios = [
        Ratio("times the bare products", median["streaming"] / median["bare products"], at_most=1.5),
        Ratio("times faster by the flash kernel, rounded", median["streaming"] / median["rounded"]),
    ]
    if whole:
        ratios.append(Ratio("times faster than all at once", median["all at once, N x N"] / median["streaming"]))
    error = (streaming(global_ND, reps) - streaming(global_ND, reps, "bfloat16")).abs().max()
    facts = {"largest error of the rounded ensemble": f"{float(error):.1e}"}
    return Report("sed", f"{torch.cuda.get_device_name(device)}, N={samples:,} K={clients}", times, ratios, facts)
