"""Rounds of Flower that train nothing, on its own gRPC server: run by the Python of an environment that has `flwr`.

It imports nothing of this project. `serve` prints a JSON list, the seconds of each round from its configuration to the
end of its averaging; `join` is so many clients in one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
import warnings
from typing import Any

__all__: list[str] = []

_MOST_BYTES = 2**31 - 1
_BYTES_OF_NUMBER = 4


def main() -> None:
    """Serve, or join."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["serve", "join"])
    for name in ("port", "clients", "rounds", "bytes_up", "bytes_down"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=True)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    (_serve if chosen.part == "serve" else _join)(chosen)


def _numbers(size_bytes: int) -> Any:
    import numpy as np

    return [np.ones(max(1, size_bytes // _BYTES_OF_NUMBER), dtype=np.float32)]


def _serve(chosen: argparse.Namespace) -> None:
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerConfig, start_server
    from flwr.server.strategy import FedAvg

    sent = ndarrays_to_parameters(_numbers(chosen.bytes_down))
    seconds: list[float] = []

    class Timed(FedAvg):  # type: ignore[misc]
        """Averages what clients send, and sends every time what it sent at first."""

        def configure_fit(self, *args: Any, **named: Any) -> Any:
            self.begun = time.perf_counter()
            return super().configure_fit(*args, **named)

        def aggregate_fit(self, *args: Any, **named: Any) -> Any:
            averaged, metrics = super().aggregate_fit(*args, **named)
            if averaged is None:
                raise RuntimeError("a round had no results")
            seconds.append(time.perf_counter() - self.begun)
            return sent, metrics

    strategy = Timed(
        fraction_evaluate=0.0,
        min_fit_clients=chosen.clients,
        min_available_clients=chosen.clients,
        initial_parameters=sent,
    )
    start_server(
        server_address=f"127.0.0.1:{chosen.port}",
        config=ServerConfig(num_rounds=chosen.rounds),
        strategy=strategy,
        grpc_max_message_length=_MOST_BYTES,
    )
    sys.stdout.write(json.dumps(seconds) + "\n")


def _join(chosen: argparse.Namespace) -> None:
    from flwr.client import NumPyClient, start_client

    own = _numbers(chosen.bytes_up)

    class Idle(NumPyClient):  # type: ignore[misc]
        """Trains nothing."""

        def fit(self, parameters: Any, config: Any) -> Any:
            return own, 1, {}

    def run() -> None:
        start_client(
            server_address=f"127.0.0.1:{chosen.port}",
            client=Idle().to_client(),
            grpc_max_message_length=_MOST_BYTES,
            insecure=True,
        )

    threads = [threading.Thread(target=run) for _ in range(chosen.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
