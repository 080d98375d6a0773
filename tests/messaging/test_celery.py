"""The road to the distillers, on a real Redis and real Celery workers."""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import redis
from tests.servers import child, free_port, redis_server, wait_until

from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.messaging.broker_memory import BrokerMemory
from fedafd.messaging.broker_queue import QUEUE
from fedafd.messaging.celery_app import make_celery, send_stage, task_name

WORKER = """
import sys, time
from pathlib import Path
from fedafd.domain.kinds import StageKind
from fedafd.messaging.broker_queue import QUEUE
from fedafd.messaging.celery_app import make_celery, task_name
app, heard = make_celery(sys.argv[1]), Path(sys.argv[2])
def run(stage_id):
    with heard.open("a") as file:
        file.write(stage_id + "\\n")
    if stage_id.startswith("long"):
        time.sleep(3)
        with heard.open("a") as file:
            file.write("end\\n")
for kind in StageKind:
    app.task(run, name=task_name(kind))
app.worker_main(["worker", "--pool", "solo", "--queues", QUEUE, "--without-gossip", "--without-mingle",
                 "--without-heartbeat", "--loglevel", "WARNING"])
"""


@pytest.fixture
def broker(redis_url: str) -> str:
    url = redis_url.removesuffix("/0") + "/5"
    redis.Redis.from_url(url).flushdb()
    return url


def heard(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _holds(path: Path, word: str) -> bool:
    return word in heard(path)


def _ended(path: Path, count: int) -> bool:
    return heard(path).count("end") == count


def test_a_message_is_json_and_holds_the_stages_id_alone(broker: str) -> None:
    send_stage(make_celery(broker), StageKind.FOLD, "stage-7")
    client = redis.Redis.from_url(broker)
    (message,) = client.lrange(QUEUE, 0, -1)
    envelope = json.loads(message)
    assert envelope["content-type"] == "application/json"
    assert envelope["headers"]["task"] == task_name(StageKind.FOLD) == "fedafd.fold"
    assert "stage-7" in envelope["headers"]["argsrepr"]


def test_without_redis_sending_fails_quickly_and_says_so() -> None:
    app = make_celery(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StorageUnavailableError, match="Redis"):
        send_stage(app, StageKind.PREPARE, "stage-1")


def test_a_worker_hears_what_was_sent_before_and_after_redis_forgot_everything(broker: str, tmp_path: Path) -> None:
    """Also the queue's binding is gone after a flush; sender and worker hold their connections throughout."""
    app, path, client = make_celery(broker), tmp_path / "heard", redis.Redis.from_url(broker)
    with child([sys.executable, "-c", WORKER, broker, str(path)], tmp_path / "worker.log"):
        send_stage(app, StageKind.PREPARE, "before")
        wait_until(lambda: heard(path) == ["before"], "the first message", seconds=60)
        client.flushdb()
        send_stage(app, StageKind.FOLD, "after")
        wait_until(lambda: heard(path) == ["before", "after"], "the second message", seconds=60)


def test_a_worker_hears_again_after_each_time_that_redis_was_away_while_a_task_ended(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "heard"
    url = f"redis://127.0.0.1:{port}/0"
    with child([sys.executable, "-c", WORKER, url, str(path)], tmp_path / "worker.log"):
        for number in range(3):
            with redis_server(tmp_path, port=port):
                send_stage(make_celery(url), StageKind.FOLD, f"long-{number}")
                wait_until(partial(_holds, path, f"long-{number}"), "the message", seconds=60)
            wait_until(partial(_ended, path, number + 1), "the end of the task", seconds=20)
            time.sleep(1)


def test_a_pickled_message_is_refused_and_the_worker_goes_on(broker: str, tmp_path: Path) -> None:
    app, path = make_celery(broker), tmp_path / "heard"
    pickling = make_celery(broker)
    pickling.conf.update(task_serializer="pickle", accept_content=["json", "pickle"])
    with child([sys.executable, "-c", WORKER, broker, str(path)], tmp_path / "worker.log"):
        pickling.send_task(task_name(StageKind.FOLD), args=("evil",), queue=QUEUE, serializer="pickle")
        send_stage(app, StageKind.FOLD, "good")
        wait_until(lambda: heard(path) == ["good"], "the good message", seconds=60)
    assert "pickle" in (tmp_path / "worker.log").read_text()


def test_the_mark_is_missing_in_a_new_or_flushed_redis_only(broker: str) -> None:
    memory = BrokerMemory(broker)
    assert not memory.intact()
    memory.remember()
    assert memory.intact()
    assert BrokerMemory(broker).intact()
    redis.Redis.from_url(broker).flushdb()
    assert not memory.intact()


def test_the_mark_says_so_when_redis_cannot_be_reached() -> None:
    memory = BrokerMemory(f"redis://127.0.0.1:{free_port()}/0")
    for call in (memory.intact, memory.remember):
        with pytest.raises(StorageUnavailableError, match="Redis cannot be reached"):
            call()


def test_sending_works_from_several_threads(broker: str) -> None:
    app = make_celery(broker)
    threads = [threading.Thread(target=send_stage, args=(app, StageKind.FOLD, f"s{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis.Redis.from_url(broker).llen(QUEUE) == 8
