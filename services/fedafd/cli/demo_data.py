"""Child of the demo: `python -m fedafd.cli.demo_data CHOICES` writes the public set and the sites' plan.

CHOICES is the JSON of DataChoices. Libraries of encoders are loaded for pretrained ones alone: those from scratch are
the preset's own, in which nothing can be wrong, and loading takes longer than all else that is done here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedafd.datasets import load_public_data, write_public_set
from fedafd.datasets.cuts import DataSource, generated, real_cuts
from fedafd.domain.config import parse_federation_config
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import ClientKind

if TYPE_CHECKING:
    from fedafd.learning.weights_check import WantedEncoder

__all__ = ["ALREADY_REPORTED", "DataChoices", "main"]

ALREADY_REPORTED = 3
"""Exit code: what was wrong is all that was written."""

_FEWER_PASSES = {"server": {"initial_passes": 6, "passes": 2}}
"""Through the backbones each costs many times what one of the projections alone does: as in docs/results/lora.yaml."""
_NAMES = {ClientKind.IMAGE: "images", ClientKind.TEXT: "texts", ClientKind.PAIR: "pairs"}


@dataclass(frozen=True, kw_only=True)
class DataChoices:
    """What the demo's command line says of data and encoders."""

    work: str
    seed: int
    data: str | None = None
    """A folder of real data; None generates data."""
    encoders: dict[str, dict[str, str]] | None = None
    """Pretrained encoders: by key what is not as the preset has it; None: tiny ones from scratch."""


def main(arguments: list[str]) -> int:
    """Write public-set and plan.json to the folder of work; returns the exit code."""
    choices = DataChoices(**json.loads(arguments[0]))
    work, seed = Path(choices.work), choices.seed
    data = None if choices.data is None else Path(choices.data)
    federation = _federation(choices)
    try:
        public, clients = generated(seed) if data is None else real_cuts(data.absolute())
        encoders = [] if choices.encoders is None else _checked_encoders(federation)
        write_public_set(load_public_data(public.adapter, public.path, public.options), work / "public-set")
    except FedafdError as error:
        sys.stderr.write(f"{error}\n")
        return ALREADY_REPORTED
    except OSError as error:
        sys.stderr.write(f"{error.filename or work}: cannot be written: {error.strerror or error}; is the disk full?\n")
        return ALREADY_REPORTED
    plan = {
        "federation": federation,
        "sites": [_site(kind, source, encoders) for kind, source in clients.items()],
        "words": "generated shapes" if data is None else f"real files below {data}",
    }
    (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return 0


def _checked_encoders(federation: dict[str, Any]) -> list[WantedEncoder]:
    from fedafd.learning.weights_check import check_encoders, encoders_of

    encoders = encoders_of(parse_federation_config(federation))
    check_encoders(encoders)
    return encoders


def _federation(choices: DataChoices) -> dict[str, Any]:
    config: dict[str, Any] = {"name": "demo", "preset": "small", "seed": choices.seed}
    if choices.encoders is not None:
        config |= {"preset": "pretrained"} | choices.encoders
        if any(block.get("trainable") == "lora" for block in choices.encoders.values()):
            config |= _FEWER_PASSES
        return config
    if choices.data is None:
        # Generated sites are small: more epochs cost seconds.
        config |= {"image_encoder": {"image_size": 32}, "client": {"local_epochs": 5}}
    return config


def _site(kind: ClientKind, source: DataSource, encoders: Sequence[WantedEncoder]) -> dict[str, Any]:
    """Pretrained weights stand in the site's own file, too: no site loads what a server alone names."""
    path = None if source.path is None else str(source.path)
    named = [wanted for wanted in encoders if wanted.config.pretrained and wanted.modality in kind.modalities]
    return {
        "name": _NAMES[kind],
        "kind": kind.value,
        "data": {"adapter": source.adapter, "path": path, "options": source.options},
        "encoders": {wanted.where: wanted.config.model_dump(mode="json") for wanted in named},
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
