"""The Celery application: how a stage's id reaches a distiller.

Delivery is at least once. A message carries the id of a stage and nothing else; who may work on the stage is decided
by the claim (fencing token) in the database, so a message that comes twice, late or never does no harm: the
coordinator sends again what stays silent.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.telemetry.tracing import TRACEPARENT, current_traceparent

__all__ = ["QUEUE", "VISIBILITY_TIMEOUT_SECONDS", "make_celery", "send_stage", "task_name"]

QUEUE = "fedafd.distiller"

VISIBILITY_TIMEOUT_SECONDS = 24 * 3600
"""After so long an unacknowledged message is delivered again, even if its task still runs: so far above any stage.
Quick recovery is the coordinator's work (`idle_timeout_seconds`), not the broker's."""


def task_name(kind: StageKind) -> str:
    """Name of the Celery task that does stages of `kind`."""
    return f"fedafd.{kind.value}"


def make_celery(redis_url: str, *, visibility_timeout_seconds: int = VISIBILITY_TIMEOUT_SECONDS) -> Celery:
    """The application, for sending and for working. Connects on first use, not here."""
    app = Celery("fedafd", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_routes={task_name(kind): {"queue": QUEUE} for kind in StageKind},
        task_create_missing_queues=True,
        # A message is acknowledged when the stage is settled or handed back, so a killed worker loses none.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # JSON only: a pickled message would run code of whoever can write to the broker.
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Sending fails quickly when Redis is away: the outbox keeps the message and sends it later.
        task_publish_retry=False,
        broker_transport_options={
            "visibility_timeout": visibility_timeout_seconds,
            # Look for unacknowledged messages every second, not every 100 s (measured: timeout + 0.6 s).
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        timezone="UTC",
        enable_utc=True,
    )
    return app


def send_stage(app: Celery, kind: StageKind, stage_id: str) -> None:
    """Hand a stage to the distillers, with the current trace.

    Blocks for up to about 5 s; call it from a thread in asyncio code.
    Raises StorageUnavailableError when the broker cannot be reached; the outbox row then stays unsent.
    """
    from kombu.exceptions import OperationalError

    options: dict[str, Any] = {"queue": QUEUE, "ignore_result": True, "retry": False}
    if traceparent := current_traceparent():
        options["headers"] = {TRACEPARENT: traceparent}
    try:
        app.send_task(task_name(kind), args=(stage_id,), **options)
    except (OperationalError, OSError) as error:
        raise StorageUnavailableError(
            f"Redis (Celery broker) cannot be reached: {error}; will be sent again"
        ) from error
