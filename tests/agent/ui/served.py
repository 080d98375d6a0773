"""`fedafd agent ui` as a person starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from fedafd.domain.config import AgentConfig


@contextmanager
def served(config: AgentConfig, root: Path) -> Iterator[str]:
    """The printed address."""
    values = config.model_dump(mode="json", include={"aggregator", "kind", "state_dir", "data", "device", "threads"})
    (root / "agent.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "fedafd.cli.main", "agent", "ui", "--config", str(root / "agent.yaml")]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
