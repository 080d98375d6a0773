"""Child of the demo: `python -m fedafd.cli.demo_data WORK SEED [DATA]` writes the public set and the sites' plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fedafd.datasets import load_public_data, write_public_set
from fedafd.datasets.cuts import DataSource, generated, real_cuts
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import ClientKind

__all__ = ["TOLD", "main"]

TOLD = 3
"""Exit code: what was wrong is all that was written."""

_NAMES = {ClientKind.IMAGE: "images", ClientKind.TEXT: "texts", ClientKind.PAIR: "pairs"}


def main(arguments: list[str]) -> int:
    """Write WORK/public-set and WORK/plan.json; returns the exit code."""
    work, seed = Path(arguments[0]), int(arguments[1])
    data = Path(arguments[2]) if len(arguments) > 2 else None
    try:
        public, clients = generated(seed) if data is None else real_cuts(data.absolute())
        write_public_set(load_public_data(public.adapter, public.path, public.options), work / "public-set")
    except FedafdError as error:
        sys.stderr.write(f"{error}\n")
        return TOLD
    except OSError as error:
        sys.stderr.write(f"{error.filename or work}: cannot be written: {error.strerror or error}; is the disk full?\n")
        return TOLD
    plan = {
        "federation": _federation(seed, real=data is not None),
        "sites": [_site(kind, source) for kind, source in clients.items()],
        "words": "generated shapes" if data is None else f"real files below {data}",
    }
    (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return 0


def _federation(seed: int, *, real: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"name": "demo", "preset": "small", "seed": seed}
    if not real:
        # Generated sites are small: more epochs cost seconds.
        config |= {"image_encoder": {"image_size": 32}, "client": {"local_epochs": 5}}
    return config


def _site(kind: ClientKind, source: DataSource) -> dict[str, Any]:
    path = None if source.path is None else str(source.path)
    return {
        "name": _NAMES[kind],
        "kind": kind.value,
        "data": {"adapter": source.adapter, "path": path, "options": source.options},
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
