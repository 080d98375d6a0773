"""Child of the demo: trains one site alone, for the comparison, and writes its metrics.

`python -m fedafd.cli.demo_alone AGENT_YAML FEDERATION_JSON ROUNDS RESULT_JSON`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedafd.domain.config import parse_federation_config, read_agent_config

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Train and write; returns the exit code."""
    from fedafd.datasets import load_client_data
    from fedafd.datasets.pixels import keep_decoded
    from fedafd.learning.baseline import train_alone

    site = read_agent_config(Path(arguments[0]))
    config = parse_federation_config(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    data = load_client_data(site.data.adapter, site.data.path, site.kind, site.data.options, site.data.partition)
    metrics = train_alone(
        config=config,
        kind=site.kind,
        image_encoder=site.image_encoder,
        text_encoder=site.text_encoder,
        data=keep_decoded(data),
        rounds=int(arguments[2]),
        client=Path(arguments[0]).stem,
        device=site.device,
    )
    Path(arguments[3]).write_text(json.dumps(metrics), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
