"""`python -m benchmarks [NAME ...]`: run, print a table, write JSON with the machine's facts."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Clock, Report, machine_facts

NAMES = (
    "sed",
    "recall",
    "client_epoch",
    "public_encoding",
    "startup",
    "trainable",
    "gpu_steps",
    "bundle_bytes",
    "round_overhead",
    "idle",
    "pages",
    "attacks",
    "two_nets",
    "floods",
    "leakage",
)
_ON_DEVICE = {"client_epoch", "gpu_steps", "public_encoding", "sed", "trainable"}
"""The others measure what always runs on a CPU."""


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="Which; all without a name.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: torch's own choice.")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: seconds of work, for a machine that is not idle."
    )
    parser.add_argument(
        "--device",
        help="cuda, cuda:N or cpu; default: a GPU if there is one, else the CPU. gpu_steps takes stand-in too, which"
        " counts as on a GPU, and does so where there is none.",
    )
    parser.add_argument(
        "--image-weights", type=Path, help="A folder of pretrained weights, for trainable, attacks and two_nets."
    )
    parser.add_argument("--text-weights", type=Path, help="The same of a text encoder.")
    parser.add_argument(
        "--cases",
        help="Of round_overhead: clients x MB up of each, such as 8x1,32x10, or 8x1x256 for rows of 256 numbers."
        " Of attacks: settings, such as cuts,helps."
        " Of trainable: modes, such as head,lora.",
    )
    parser.add_argument("--database-url", help="Of round_overhead and floods: another, empty database than SQLite.")
    parser.add_argument("--redis-url", help="Of round_overhead: another Redis than one of its own.")
    parser.add_argument(
        "--peers",
        type=_peers,
        help="Of round_overhead: a folder with environments: `flower` with flwr, `nvflare` with nvflare.",
    )
    parser.add_argument("--aggregators", type=int, default=1, help="Of round_overhead: how many serve the sites.")
    parser.add_argument(
        "--spread", type=float, default=0.0, help="Of round_overhead: seconds over which clients begin to upload."
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="Of attacks, leakage and two_nets: the folder of the real cuts; generated data without, but for two_nets.",
    )
    parser.add_argument("--tiny", action="store_true", help="Sizes of a smoke test; its figures mean nothing.")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    chosen = parser.parse_args(arguments)
    import torch

    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    facts = machine_facts()
    reports: list[Report] = []
    for name in chosen.names or NAMES:
        started = time.perf_counter()
        further: dict[str, Any] = {}
        if name in _ON_DEVICE:
            further["device"] = _device(chosen.device, name, has_gpu=torch.cuda.is_available())
        if name in ("trainable", "two_nets"):
            further |= {"image_weights": chosen.image_weights, "text_weights": chosen.text_weights}
        if name == "trainable":
            further["modes"] = chosen.cases.split(",") if chosen.cases else ()
        if name in {"attacks", "leakage", "two_nets"}:
            further["data"] = chosen.data
        if name == "attacks":
            folders = {"image_encoder": chosen.image_weights, "text_encoder": chosen.text_weights}
            further["weights"] = {key: str(path) for key, path in folders.items() if path is not None}
            further["settings"] = chosen.cases.split(",") if chosen.cases else ()
        if name == "round_overhead":
            further |= {"database_url": chosen.database_url, "redis_url": chosen.redis_url, "peers": chosen.peers}
            further["cases"] = chosen.cases.split(",") if chosen.cases else ()
            further |= {"aggregators": chosen.aggregators, "spread": chosen.spread}
        if name == "floods":
            further["database_url"] = chosen.database_url
        made = import_module(f"benchmarks.{name}").run(
            tiny=chosen.tiny, repeats=chosen.repeats, clock=chosen.clock, **further
        )
        reports += made
        sys.stderr.write(f"{name}: {time.perf_counter() - started:.0f} s\n")
    _print(reports, chosen.clock)
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    content = {"machine": facts, "clock": chosen.clock, "tiny": chosen.tiny, "reports": [r.to_json() for r in reports]}
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    print(f"written to {path}")
    return int(any(ratio.holds is False for report in reports for ratio in report.ratios) and not chosen.tiny)


def _peers(text: str) -> Path:
    folder = Path(text)
    if not any((folder / name / "bin" / "python").exists() for name in ("flower", "nvflare")):
        raise argparse.ArgumentTypeError(
            f"{folder} holds no environment of Flower or NVIDIA FLARE; make one: python3 -m venv {folder / 'flower'} &&"
            f" {folder / 'flower'}/bin/pip install flwr (or {folder / 'nvflare'}, nvflare)"
        )
    return folder


def _device(asked: str | None, name: str, *, has_gpu: bool) -> str:
    place = asked or ("cuda" if has_gpu else "stand-in")
    return "cpu" if place == "stand-in" and name != "gpu_steps" else place


def _print(reports: list[Report], clock: Clock) -> None:
    table = Table("benchmark", "case", "what", "median", "spread", "target", title=f"seconds by the {clock} clock")
    for report in reports:
        if report.skipped is not None:
            table.add_row(report.benchmark, report.case, f"skipped: {report.skipped}", "", "", "")
        elif not report.times:
            table.add_row(report.benchmark, report.case, "", "", "", "")
        for name, times in report.times.items():
            seconds = times.of(clock)
            spread = f"{min(seconds):.3g} to {max(seconds):.3g}"
            table.add_row(report.benchmark, report.case, name, f"{times.median(clock):.3g} s", spread, "")
        for ratio in report.ratios:
            target = ""
            if ratio.holds is not None:
                bound = f">= {ratio.at_least}" if ratio.at_least is not None else f"<= {ratio.at_most}"
                target = f"{bound} {'[green]met' if ratio.holds else '[red]missed'}"
            table.add_row("", "", f"[bold]{ratio.name}", f"{ratio.value:.3g}", "", target)
        for name, value in report.facts.items():
            table.add_row("", "", name, str(value), "", "")
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    # What a benchmark has started ends with it, also where `timeout` or a batch system ends it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    raise SystemExit(main())
