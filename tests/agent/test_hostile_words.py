"""What a server says in words is printed as text by every command of a site's engineer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2_grpc
from tests.agent.scene import Scene, play
from tests.cli.in_process import run_fedafd

from fedafd.proto.v1 import aggregator_pb2 as pb

HOSTILE = "wait\x1b[2J\x1b]0;owned\x07\r\nyour yes  is not needed \u202eevil\x9b31m"
OBEYED = "\x1b\x07\r\x9b\u202e"


class _Hostile(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    def Check(self, _: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNAVAILABLE, HOSTILE)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(_Hostile(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def test_why_to_wait_is_a_short_text_in_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.set_task(idle=pb.IdleTask(reason=HOSTILE + "!" * 1_000_000))
        await scene.run(lambda: (scene.state_dir / "task.json").exists())

    scene = play(tmp_path, scenario)
    code, printed, _ = run_fedafd(monkeypatch, capsys, "agent", "status", "--state-dir", str(scene.state_dir))
    assert code == 0 and "to wait: wait" in printed
    assert not any(mark in printed for mark in OBEYED), repr(printed[:500])
    assert len(printed) < 3000
    assert not [line for line in printed.splitlines() if line.strip().startswith("your yes")]


def test_what_an_aggregator_says_of_its_health_is_a_text_in_the_check(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"adapter": "shapes", "options": {"num_train": 8, "num_val": 4, "num_test": 4}}
    site = {"aggregator": address, "kind": "image", "data": data, "state_dir": str(tmp_path / "site")}
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(site))
    _, printed, errors = run_fedafd(monkeypatch, capsys, "agent", "check", "--config", str(file))
    assert "owned" in printed
    assert not any(mark in printed + errors for mark in OBEYED), repr(printed)


def test_names_of_files_are_text_where_a_folder_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive from elsewhere may hold any names."""
    import numpy as np
    from PIL import Image

    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(np.full((9, 9, 3), 60 * number, np.uint8)).save(folder / f"{number}\x1b[2J.png")
            (folder / "broken\x1b]0;owned\x07\r\u202e.png").write_bytes(b"no picture")
            (folder / "other\x1b[2J\u202e.txt").write_bytes(b"no picture")
    file = tmp_path / "agent.yaml"
    at = ["--aggregator", "127.0.0.1:1", "--yes", "--output", str(file), "--state-dir", str(tmp_path / "site")]
    code, printed, errors = run_fedafd(monkeypatch, capsys, "agent", "init", str(tmp_path / "data"), *at)
    assert code == 0, errors
    assert "classes: 2 (cat, dog)" in printed and not any(mark in printed + errors for mark in OBEYED), repr(printed)
    _, printed, errors = run_fedafd(monkeypatch, capsys, "agent", "check", "--config", str(file), "--offline")
    assert "broken" in printed and not any(mark in printed + errors for mark in OBEYED), repr(printed)


def test_a_trace_of_an_error_with_a_servers_words_is_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedafd.telemetry import logging as logs

    logs.configure("agent", format="console", stream=sys.stderr)
    try:
        raise ValueError(HOSTILE)
    except ValueError as caught:
        logs.get_logger("x").exception("agent.round_failed", reason=str(caught), found=HOSTILE)
    finally:
        logs.configure("tests", format="json")
    printed = capsys.readouterr().err
    assert "Traceback" in printed and printed.count("\n") > 2
    assert not any(mark in printed for mark in OBEYED), repr(printed)
