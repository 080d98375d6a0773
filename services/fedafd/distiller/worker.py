"""Entry of the distiller process: a Celery worker with one stage at a time, in this process.

The solo pool is used on purpose: torch, CUDA and gRPC do not survive a fork, and a stage wants the whole device.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from fedafd.distiller.settings import DistillerSettings, load_settings
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import StageKind
from fedafd.messaging.celery_app import QUEUE, make_celery, task_name
from fedafd.storage import open_store
from fedafd.telemetry.logging import configure, get_logger

__all__ = ["main"]

_log = get_logger(__name__)


def _run(settings: DistillerSettings, cache: Path) -> None:
    import torch

    from fedafd.distiller.client import DistillationClient
    from fedafd.distiller.public_sets import PublicSets
    from fedafd.distiller.tasks import StageRunner

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    client = DistillationClient(settings.aggregator, settings.internal_token.get_secret_value(), settings.tls)
    store = open_store(settings.store)
    public_sets = PublicSets(store, cache, limit_bytes=settings.cache_limit_bytes)
    runner = StageRunner(client, store, public_sets, settings.device)
    app = make_celery(settings.redis_url.get_secret_value())
    for kind in StageKind:
        app.task(runner.run, name=task_name(kind), acks_late=True)
    name = f"distiller-{os.getpid()}@%h"
    _log.info("distiller.started", aggregator=settings.aggregator, device=settings.device)
    options = ["--pool", "solo", "--queues", QUEUE, "--hostname", name, "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", *options, "--without-heartbeat", "--loglevel", "WARNING"])


def main() -> int:
    """Run the distiller; returns its exit code."""
    try:
        settings = load_settings()
        configure("distiller", level=settings.log_level)
    except ConfigurationError as error:
        sys.stderr.write(f"distiller: {error}\n")
        return 2
    if settings.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.cache_dir is not None:
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        _run(settings, settings.cache_dir)
    else:
        with tempfile.TemporaryDirectory(prefix="fedafd-distiller-") as folder:
            _run(settings, Path(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
