"""Child of the demo: trains one site alone, and writes its metrics and how far they tell it from the federated model.

`python -m fedafd.cli.demo_alone AGENT_YAML FEDERATION_JSON ROUNDS RESULT_JSON`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fedafd.domain.config import parse_federation_config, read_agent_config

__all__ = ["main", "standard_error"]


def main(arguments: list[str]) -> int:
    """Train and write; returns the exit code."""
    from fedafd.datasets import load_client_data
    from fedafd.datasets.pixels import keep_decoded
    from fedafd.learning.baseline import train_alone

    site = read_agent_config(Path(arguments[0]))
    config = parse_federation_config(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    data = load_client_data(site.data.adapter, site.data.path, site.kind, site.data.options, site.data.partition)
    last = train_alone(
        config=config,
        kind=site.kind,
        image_encoder=site.image_encoder,
        text_encoder=site.text_encoder,
        data=keep_decoded(data),
        rounds=int(arguments[2]),
        client=Path(arguments[0]).stem,
        device=site.device,
    )
    tested = last.evaluations["test"]
    result = {"metrics": tested.metrics, "standard_error": standard_error(site.state_dir, tested.scores)}
    Path(arguments[3]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def standard_error(state_dir: Path, alone: ArrayLike) -> float | None:
    """Of the last delivered model less the one trained alone, on the test samples that both were asked.

    `alone`: the latter's scores [n]. None where the site kept no scores of the same number of samples.
    """
    from fedafd.agent.history import History
    from fedafd.learning.comparison import paired_difference

    rounds = History(state_dir).rounds()
    kept = rounds[-1].splits.get("test") if rounds else None
    if kept is None or len(kept.views["federated"].scores) != len(np.asarray(alone)):
        return None
    return paired_difference(kept.views["federated"].scores, alone).standard_error


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
