"""A distiller that does not receive is found out, and ends."""

from __future__ import annotations

import threading
import time

import pytest
import redis
from tests.servers import free_port, wait_until

from fedafd.distiller.hearing import Hearing
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.domain.kinds import StageKind
from fedafd.messaging.celery_app import make_celery, send_stage
from fedafd.messaging.queue_depth import QueueDepth


@pytest.fixture
def broker(redis_url: str) -> str:
    url = redis_url.removesuffix("/0") + "/6"
    redis.Redis.from_url(url).flushdb()
    return url


def hearing(url: str, *, busy: bool = False) -> tuple[Hearing, DistillerMetrics]:
    metrics = DistillerMetrics()
    return Hearing(QueueDepth(url), lambda: busy, metrics, deaf_seconds=0.3, look_seconds=0.05), metrics


def test_an_idle_distiller_beside_which_messages_wait_is_deaf_and_ends(broker: str) -> None:
    watched, metrics = hearing(broker)
    ended = threading.Event()
    watched.start(ended.set)
    time.sleep(0.5)
    assert not ended.is_set()
    send_stage(make_celery(broker), StageKind.FOLD, "stage-1")
    wait_until(ended.is_set, "the end", seconds=10)
    assert watched.deaf
    assert metrics.registry.get_sample_value("fedafd_distiller_deaf") == 1


@pytest.mark.parametrize("case", ["busy", "takes", "no broker"])
def test_a_distiller_that_works_or_takes_messages_or_has_no_broker_is_not_deaf(broker: str, case: str) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0" if case == "no broker" else broker
    watched, _ = hearing(url, busy=case == "busy")
    send_stage(make_celery(broker), StageKind.FOLD, "stage-1")
    for _ in range(4):
        assert not watched.look()
        if case == "takes":
            watched.took()
        time.sleep(0.15)
