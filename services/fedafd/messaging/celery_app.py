"""The Celery application: how a stage's id reaches a distiller.

A message carries the id of a stage and nothing else; who may work on the stage is decided by the claim (fencing token)
in the database, so a message that comes twice, late or never does no harm: the coordinator sends again what nobody
claims. So the broker keeps no account of what was received (`no_ack`). An account does harm: when Redis is away at the
moment that a stage ends, Celery logs that it could not acknowledge, goes on, and never receives again.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.entity import Queue

from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.messaging.broker_queue import QUEUE
from fedafd.telemetry.tracing import TRACEPARENT, current_traceparent

__all__ = ["make_celery", "send_stage", "task_name"]


def task_name(kind: StageKind) -> str:
    """Name of the Celery task that does stages of `kind`."""
    return f"fedafd.{kind.value}"


def make_celery(redis_url: str) -> Celery:
    """The application, for sending and for working. Connects on first use, not here."""
    app = Celery("fedafd", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_queues=[Queue(QUEUE, no_ack=True)],
        task_routes={task_name(kind): {"queue": QUEUE} for kind in StageKind},
        task_acks_late=False,
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
            "socket_connect_timeout": 5,
            # Without it a Redis that swallows packets holds whoever sends for as long as TCP tries, many minutes.
            "socket_timeout": 5,
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
