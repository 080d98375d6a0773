"""The Python client: runs rounds of a federation, waits for each, and keeps a line of it in a CSV file.

    export FEDAFD_URL=... FEDAFD_API_KEY=... FEDAFD_FEDERATION=...
    python run_rounds.py rounds.csv --rounds 3 --model models

With --model the global model of the last round is pulled into a folder of its own below it. Exit code 1 says that a
round did not complete, and why.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from datetime import datetime
from pathlib import Path

from fedafd.client.answers import RoundDetails
from fedafd.client.federation import FederationClient
from fedafd.domain.errors import FedafdError

FIELDS = ("round", "seconds", "delivered", "others", "mib_up", "mib_down", "server_rsum")


def line(done: RoundDetails) -> dict[str, object]:
    """A round in figures; `others` names who was invited and did not deliver, and what became of them."""
    parts = done["participations"]
    began, ended = (datetime.fromisoformat(str(done[key])) for key in ("started_at", "finished_at"))
    return {
        "round": done["number"],
        "seconds": round((ended - began).total_seconds(), 1),
        "delivered": sum(part["state"] == "delivered" for part in parts),
        "others": "; ".join(f"{part['client']}: {part['state']}" for part in parts if part["state"] != "delivered"),
        "mib_up": round(sum(part["bytes_up"] for part in parts) / 2**20, 2),
        "mib_down": round(sum(part["bytes_down"] for part in parts) / 2**20, 2),
        "server_rsum": (done["metrics"] or {}).get("rsum"),
    }


def main() -> int:
    """Returns the exit code."""
    arguments = argparse.ArgumentParser(description="Run rounds and keep a line of each.")
    arguments.add_argument("table", type=Path)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--seconds", type=float, default=86_400, help="how long a round may take")
    arguments.add_argument("--model", type=Path)
    given = arguments.parse_args()
    url, key, name = (os.environ[f"FEDAFD_{what}"] for what in ("URL", "API_KEY", "FEDERATION"))
    federation = FederationClient(url, key, name)
    try:
        for number in federation.start_rounds(given.rounds):
            done = federation.wait_for_round(number, lambda _: None, seconds=given.seconds)
            is_new = not given.table.exists()
            with given.table.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                if is_new:
                    writer.writeheader()
                writer.writerow(line(done))
        if given.model is not None:
            federation.pull_global_model(given.model / f"round-{number}")
    except FedafdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        federation.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
