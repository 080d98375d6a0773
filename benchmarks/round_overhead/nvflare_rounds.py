"""Rounds of NVIDIA FLARE that train nothing, in its simulator: run by the Python of an environment that has `nvflare`.

It imports nothing of this project. It prints a JSON list, the seconds of each round from its first message to the end
of its averaging. The simulator runs the server in one process and each client in one of its own, over TCP.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.model_controller import ModelController
from nvflare.job_config.api import FedJob

__all__ = ["IdleExecutor", "TimedRounds"]

_BYTES_OF_NUMBER = 4


class TimedRounds(ModelController):  # type: ignore[misc]
    """Averages what clients send, and sends every time what it sent at first."""

    def __init__(self, clients: int, rounds: int, bytes_down: int, path: str) -> None:
        super().__init__()
        self.clients = clients
        self.rounds = rounds
        self.bytes_down = bytes_down
        self.path = path

    def run(self) -> None:
        """All rounds, one after the other."""
        sent, seconds = _numbers(self.bytes_down), []
        for number in range(self.rounds):
            begun = time.perf_counter()
            model = FLModel(params=sent, current_round=number, total_rounds=self.rounds)
            results = self.send_model_and_wait(targets=self.sample_clients(self.clients), data=model)
            if len(results) != self.clients:
                raise RuntimeError(f"a round had {len(results)} results of {self.clients}")
            np.mean([result.params["numbers"] for result in results], axis=0)
            seconds.append(time.perf_counter() - begun)
        Path(self.path).write_text(json.dumps(seconds))


class IdleExecutor(Executor):  # type: ignore[misc]
    """Trains nothing."""

    def __init__(self, bytes_up: int) -> None:
        super().__init__()
        self.bytes_up = bytes_up

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
        """Reads the model that came, and answers with numbers of its own."""
        del task_name, fl_ctx, abort_signal
        FLModelUtils.from_shareable(shareable)
        return FLModelUtils.to_shareable(FLModel(params=_numbers(self.bytes_up)))


def _numbers(size_bytes: int) -> dict[str, Any]:
    return {"numbers": np.ones(max(1, size_bytes // _BYTES_OF_NUMBER), dtype=np.float32)}


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("clients", "rounds", "bytes_up", "bytes_down"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=True)
    chosen = parser.parse_args()
    # FLARE copies the module of these classes into its job, and imports it there by its name.
    import nvflare_rounds as job_module

    with tempfile.TemporaryDirectory(prefix="nvflare-rounds-") as folder:
        path = Path(folder) / "seconds.json"
        job = FedJob(name="idle")
        job.to_server(job_module.TimedRounds(chosen.clients, chosen.rounds, chosen.bytes_down, str(path)))
        job.to_clients(job_module.IdleExecutor(chosen.bytes_up), tasks=["train"])
        job.simulator_run(f"{folder}/work", n_clients=chosen.clients)
        sys.stdout.write(f"\n{path.read_text()}\n")


if __name__ == "__main__":
    main()
