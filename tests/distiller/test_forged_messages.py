"""A distiller's process and messages in Redis that no aggregator sent: it goes on, or says that it could not."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.servers import free_port, wait_until

from fedafd.distiller.hearing import DEAF_EXIT_CODE
from fedafd.domain.kinds import StageKind
from fedafd.messaging.broker_queue import QUEUE
from fedafd.messaging.celery_app import make_celery, send_stage


@pytest.fixture
def broker(redis_url: str) -> str:
    url = redis_url.removesuffix("/0") + "/8"
    redis.Redis.from_url(url).flushdb()
    return url


@contextmanager
def distiller(folder: Path, broker: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "REDIS_URL": broker,
        "AGGREGATOR": f"127.0.0.1:{free_port()}",
        "INTERNAL_TOKEN": "0123456789abcdef" * 4,
        "STORE__URL": f"file://{folder / 'store'}",
        "DEVICE": "cpu",
    }
    (folder / "store").mkdir()
    environment = os.environ | {f"FEDAFD_DISTILLER_{name}": value for name, value in settings.items()}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedafd.distiller.worker"], env=environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: b"distiller.started" in (folder / "log").read_bytes(), "the distiller", seconds=60)
        yield process
    finally:
        process.kill()
        process.wait()


def message(broker: str, **headers: Any) -> dict[str, Any]:
    """One of ours, with other headers."""
    send_stage(make_celery(broker), StageKind.FOLD, "0" * 32)
    sent: dict[str, Any] = json.loads(redis.Redis.from_url(broker).lpop(QUEUE) or b"{}")  # type: ignore[arg-type]
    return sent | {"headers": sent["headers"] | headers}


def body(content: object) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def test_odd_ids_tasks_and_headers_are_passed_over(broker: str, tmp_path: Path) -> None:
    client, ours = redis.Redis.from_url(broker), message(broker)
    forged = [
        *(ours | {"body": body([arguments, {}, {}])} for arguments in ([], [5], [{"a": 1}])),
        *(message(broker, task=name) for name in ("os.system", "celery.chain", "x\n{} \x1b[2J")),
        message(broker, eta="9999-01-01T00:00:00+00:00"),
        ours | {"content-type": "application/x-python-serialize", "body": base64.b64encode(b"cos\nsystem\n").decode()},
    ]
    with distiller(tmp_path, broker) as process:
        for content in forged:
            client.lpush(QUEUE, json.dumps(content))
        wait_until(lambda: client.llen(QUEUE) == 0, "the messages", seconds=60)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if line and not line.startswith("worker:")]
    assert "\x1b" not in "".join(lines)
    assert all(json.loads(line)["process"] == "distiller" for line in lines)


@pytest.mark.parametrize("forged", [b"\xff\xfe", b"[]", b"[" * 100_000])
def test_a_message_that_ends_the_receiving_is_no_orderly_end(broker: str, tmp_path: Path, forged: bytes) -> None:
    """A supervisor that starts it again only after a failure does so."""
    with distiller(tmp_path, broker) as process:
        redis.Redis.from_url(broker).lpush(QUEUE, forged)
        assert process.wait(60) == DEAF_EXIT_CODE
    assert b"distiller.receiving_ended" in (tmp_path / "log").read_bytes()
