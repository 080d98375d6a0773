"""What a round costs each process: peak memory, CPU seconds, and bytes between sites and aggregator.

    python -m benchmarks.footprint                     # four runs that vary N, D and K one at a time
    python -m benchmarks.footprint --run 512 64 3      # one run with N public samples, D dimensions, K sites

Every process is real (SQLite and a folder, as in the demo), with tiny encoders and one thread each, so that what grows
with N, D and K stands out from what the encoders cost. One round; the agents' own memory is mostly torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from fedafd.client.federation import FederationClient
from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.services import Backends, Services, start_redis, thread_environment
from fedafd.local.supervisor import Child, Supervisor

RUNS = ((128, 64, 3), (512, 64, 3), (128, 256, 3), (128, 64, 6))
KINDS = ("image", "pair", "text")
IMAGE = {
    "architecture": "resnet",
    "image_size": 32,
    "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
TEXT = {"architecture": "bigru", "max_tokens": 16, "options": {"embedding_size": 16, "hidden_size": 16}}


def measure(num_public: int, dim: int, num_sites: int) -> dict[str, Any]:
    """One round; per process MiB at the peak and CPU seconds, per site bytes by direction."""
    with tempfile.TemporaryDirectory() as name, Supervisor(Path(name) / "logs") as supervisor:
        folder = Path(name)
        store = {"URL": str(folder / "store")}
        backends = Backends(
            database_url=f"sqlite:///{folder}/fedafd.db", redis_url=start_redis(supervisor, folder), store=store
        )
        services = Services(supervisor, backends, http_port=None, threads=1)
        services.migrate()
        children = {"control plane": services.start_control_plane()}
        services.wait_for_control_plane()
        children |= {"aggregator": services.start_aggregator(), "distiller": services.start_distiller()}
        rest = FederationClient(services.url, services.api_key, "footprint")
        _create(rest, folder, num_public, dim)
        children |= _agents(supervisor, services, rest, folder, num_sites)
        supervisor.wait_until(lambda: all(c["state"] == "enrolled" for c in rest.clients()), "the agents", seconds=300)
        started = time.monotonic()
        rest.start_rounds(1)
        answer = rest.wait_for_round(1, lambda _: None, seconds=900)
        return {
            "seconds": round(time.monotonic() - started, 1),
            "processes": {label: _cost(child) for label, child in children.items()},
            "bytes": {p["client"]: (p["bytes_up"], p["bytes_down"]) for p in answer["participations"]},
        }


def _create(rest: FederationClient, folder: Path, num_public: int, dim: int) -> None:
    config: dict[str, Any] = {"name": "footprint", "preset": "small", "embedding_dim": dim, "seed": 1}
    config |= {"image_encoder": IMAGE, "text_encoder": TEXT, "server": {"passes": 1}, "client": {"local_epochs": 1}}
    rest.create(config)
    sizes = {"num_train": num_public, "num_val": 16, "num_test": 32, "seed": 5}
    write_public_set(load_public_data("shapes", None, sizes), folder / "public-set")
    rest.push_public_set(folder / "public-set")


def _agents(
    supervisor: Supervisor, services: Services, rest: FederationClient, folder: Path, count: int
) -> dict[str, Child]:
    children = {}
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        name = f"{kind}-{number}"
        options = {"num_train": 48, "num_val": 16, "num_test": 16, "seed": number}
        config: dict[str, Any] = {
            "aggregator": services.aggregator,
            "kind": kind,
            "data": {"adapter": "shapes", "options": options},
            "state_dir": str(folder / name),
            "device": "cpu",
            "threads": 1,
        }
        config |= {} if kind == "text" else {"image_encoder": IMAGE}
        config |= {} if kind == "image" else {"text_encoder": TEXT}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        environment = thread_environment(1) | {"FEDAFD_AGENT_ENROLMENT_TOKEN": rest.invite(name, kind)}
        command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(path)]
        children[f"agent {name}"] = supervisor.start(name, command, environment)
    return children


def _cost(child: Child) -> tuple[int, float]:
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    times = psutil.Process(child.process.pid).cpu_times()
    return peak_kib // 1024, round(times.user + times.system, 1)


def rows(runs: list[tuple[int, int, int]]) -> Iterator[str]:
    """A Markdown table per run."""
    for num_public, dim, num_sites in runs:
        found = measure(num_public, dim, num_sites)
        yield f"\nN = {num_public}, D = {dim}, K = {num_sites}: {found['seconds']} s\n"
        yield "| process | peak MiB | CPU s | bytes up | bytes down |"
        yield "|---|---|---|---|---|"
        for label, (peak, seconds) in found["processes"].items():
            up, down = found["bytes"].get(label.removeprefix("agent "), ("", ""))
            yield f"| {label} | {peak} | {seconds} | {up} | {down} |"


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, type=int, action="append", metavar=("N", "D", "K"))
    given = parser.parse_args().run
    for row in rows([(n, d, k) for n, d, k in given] if given else list(RUNS)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
