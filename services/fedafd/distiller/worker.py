"""Entry of the distiller process: a Celery worker with one stage at a time, in this process.

The solo pool is used on purpose: torch, CUDA and gRPC do not survive a fork, and a stage wants the whole device.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery, Task
from celery.signals import setup_logging

from fedafd.distiller.hearing import DEAF_EXIT_CODE, Hearing
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.scratch import cache_folder
from fedafd.distiller.settings import DistillerSettings, line_to_aggregator, load_settings
from fedafd.distiller.shutdown import Shutdown
from fedafd.domain.addresses import split_address
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import StageKind
from fedafd.domain.proxies import is_off_machine
from fedafd.messaging.broker_queue import QUEUE
from fedafd.messaging.celery_app import make_celery, task_name
from fedafd.messaging.queue_depth import QueueDepth
from fedafd.storage import open_store
from fedafd.telemetry.ending import leave_objects, tell_end
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.metrics import start_metrics_server
from fedafd.telemetry.tracing import configure_tracing, traceparent_in

if TYPE_CHECKING:
    from fedafd.distiller.tasks import StageRunner

__all__ = ["main"]

_log = get_logger(__name__)


def _run(settings: DistillerSettings, cache: Path) -> int:
    import torch

    from fedafd.distiller.client import DistillationClient
    from fedafd.distiller.kept_progress import ProgressKeeper
    from fedafd.distiller.patience import Patience
    from fedafd.distiller.public_sets import PublicSets
    from fedafd.distiller.tasks import StageRunner
    from fedafd.learning.feature_cache import keep_features
    from fedafd.learning.optimizers import choose_device

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    metrics = DistillerMetrics()
    shutdown = Shutdown(settings.shutdown_grace_seconds, metrics)
    token = settings.internal_token.get_secret_value()
    line = line_to_aggregator(settings)
    client = DistillationClient(settings.aggregator, token, line, check=shutdown.check)
    store, patience = open_store(settings.store), Patience()
    keep_features(cache / "features", limit_bytes=settings.cache_limit_bytes)
    public_sets = PublicSets(store, cache, limit_bytes=settings.cache_limit_bytes, patience=patience)
    device = choose_device(settings.device)
    keeper = ProgressKeeper(
        store=store,
        patience=patience,
        metrics=metrics,
        internal_token=token,
        device=device.type,
        every_seconds=settings.keep_progress_seconds,
        asked=lambda: shutdown.begun,
    )
    runner = StageRunner(
        client,
        store,
        public_sets,
        settings.device,
        metrics,
        shutdown,
        settings.processes,
        patience,
        # A GPU is one device, on which folds take turns.
        torch.get_num_threads() if device.type == "cpu" else 1,
        keeper,
    )
    with ExitStack() as stack:
        if settings.metrics_listen:
            host, port = split_address(settings.metrics_listen)
            stack.enter_context(start_metrics_server(metrics, host, port))
        if line is None and is_off_machine(settings.aggregator):
            _log.warning(
                "distiller.plaintext",
                aggregator=settings.aggregator,
                reason="no TLS, as FEDAFD_DISTILLER_PLAINTEXT says: the internal token can be read on the way, unless"
                " the network between is yours alone",
            )
        _log.info("distiller.started", aggregator=settings.aggregator, device=settings.device)
        redis_url = settings.redis_url.get_secret_value()
        hearing = Hearing(QueueDepth(redis_url), lambda: runner.busy or shutdown.begun, metrics)
        hearing.start()
        _work(make_celery(redis_url), runner, hearing)
    if not shutdown.begun and not hearing.deaf:
        _log.error("distiller.receiving_ended", reason="a message in Redis is none of ours, or Redis refuses it")
        return DEAF_EXIT_CODE
    _log.info("distiller.stopped")
    return DEAF_EXIT_CODE if hearing.deaf else 0


def _work(app: Celery, runner: StageRunner, hearing: Hearing) -> None:
    """Work until SIGTERM: Celery then finishes the task at hand and takes no other."""
    # Whoever hears this signal sets logging up; without a hearer Celery would raise our loggers' level to its own.
    setup_logging.connect(_keep_logging, weak=False)
    # Celery acknowledges whatever it received, though the broker keeps no account of it; failing does no harm.
    logging.getLogger("celery.worker.request").addFilter(_is_news)

    def run(task: Task, stage_id: str) -> None:
        hearing.took()
        runner.run(stage_id, traceparent_in(task.request.headers))

    for kind in StageKind:
        app.task(run, bind=True, name=task_name(kind))
    name = f"distiller-{os.getpid()}@%h"
    options = ["--pool", "solo", "--queues", QUEUE, "--hostname", name, "--without-gossip", "--without-mingle"]
    try:
        app.worker_main(["--quiet", "worker", *options, "--without-heartbeat", "--loglevel", "WARNING"])
    except SystemExit as ended:
        if ended.code:
            raise


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Couldn't ack")


def _keep_logging(**_: object) -> None:
    pass


def main() -> int:
    """Run the distiller; returns its exit code."""
    try:
        settings = load_settings()
        configure("distiller", level=settings.log_level)
        configure_tracing("distiller")
        if settings.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        with cache_folder(settings.cache_dir) as cache:
            code = _run(settings, cache)
        leave_objects()
        return code
    except FedafdError as error:
        tell_end("distiller", error)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
