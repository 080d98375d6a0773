"""Trackers fail and hang in threads of their own: nobody waits for them, and each says so once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from fedafd.domain.errors import ConfigurationError
from fedafd.tracking import tracker_thread, trackers
from fedafd.tracking.run import TrackedRun, lasting_id
from fedafd.tracking.trackers import Trackers, check_trackers


class Kept:
    """A tracker that keeps what it is told, fails as often as asked to, and hangs until let go."""

    started = 0
    failures = 0
    points: list[tuple[int, dict[str, float]]]
    held = threading.Event()
    reached = threading.Event()

    def __init__(self, run: TrackedRun, options: Mapping[str, Any]) -> None:
        Kept.started += 1
        self._hangs = bool(options.get("hangs"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        Kept.reached.set()
        if self._hangs:
            Kept.held.wait(30)
        if Kept.failures:
            Kept.failures -= 1
            raise OSError(28, "No space left on device", "/data/board")
        Kept.points.append((step, dict(metrics)))

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def own_tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trackers, "_known", lambda: {"kept": EntryPoint("kept", f"{__name__}:Kept", trackers.GROUP)})
    monkeypatch.setattr(EntryPoint, "load", lambda _: Kept)
    Kept.started, Kept.failures, Kept.points = 0, 0, []
    Kept.held.clear()
    Kept.reached.clear()
    yield
    Kept.held.set()


def opened(output: Path, told: list[str], *, close_seconds: float = 30.0, **options: Any) -> Trackers:
    run = TrackedRun(name="a run", id="1", tags={}, output=output)
    return Trackers({"kept": options}, run, told.append, close_seconds=close_seconds)


def until(true: Any) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_each_point_is_told_once_and_a_later_metric_of_an_earlier_round_too(tmp_path: Path) -> None:
    told: list[str] = []
    followed = opened(tmp_path, told)
    rounds: dict[int, dict[str, float]] = {1: {"acc1": 1.0}}
    followed.show(rounds)
    until(lambda: len(Kept.points) == 1)
    rounds[2] = {"acc1": 2.0}
    rounds[1]["alone"] = 0.5
    followed.show(rounds)
    followed.close()
    assert Kept.points == [(1, {"acc1": 1.0}), (1, {"alone": 0.5}), (2, {"acc1": 2.0})]
    assert (Kept.started, told) == (1, [])


def test_one_that_fails_is_told_once_and_gets_all_rounds_once_it_works_again(tmp_path: Path) -> None:
    told: list[str] = []
    Kept.failures = 2
    followed = opened(tmp_path, told)
    for last in (1, 2, 3):
        followed.show({number: {"acc1": float(number)} for number in range(1, last + 1)})
        until(lambda last=last: Kept.started == last and (Kept.failures == 2 - last or len(Kept.points) == 3))
    followed.close()
    assert [number for number, _ in Kept.points] == [1, 2, 3]
    assert told == ["tracker kept: /data/board: No space left on device; the run goes on without it"]


def test_no_password_of_an_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def log(*_: object) -> None:
        raise RuntimeError("request to https://me:s3cr@t.x/a failed; postgresql+psycopg://me:s3cret@db:5432/x, too")

    monkeypatch.setattr(Kept, "log", log)
    told: list[str] = []
    followed = opened(tmp_path, told)
    followed.show({1: {"acc1": 1.0}})
    followed.close()
    assert "s3cr" not in told[0]
    assert "https://...@t.x/a failed; postgresql+psycopg://...@db:5432/x" in told[0]


def test_one_that_hangs_delays_nobody_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_thread, "HANGS_SECONDS", 0.0)
    told: list[str] = []
    followed = opened(tmp_path, told, close_seconds=0.1, hangs=True)
    followed.show({1: {"acc1": 1.0}})
    assert Kept.reached.wait(10)
    began = time.monotonic()
    for number in range(2, 200):
        followed.show({number: {"acc1": 1.0}})
    followed.close()
    assert time.monotonic() - began < 5
    assert told == ["tracker kept: has not answered for 0 seconds; the run goes on without it"]


def test_one_that_hangs_at_the_end_is_left_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    followed = opened(tmp_path, told, close_seconds=0.1, hangs=True)
    followed.show({1: {"acc1": 1.0}})
    followed.close()
    assert told == ["tracker kept: did not end in time; its last points may be missing; the run goes on without it"]


def test_an_unknown_tracker_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigurationError, match=r"agent.yaml: tracking: 'keptt' is not known; installed: kept"):
        check_trackers({"keptt": {}}, "agent.yaml: tracking")


def test_a_folder_keeps_its_id_and_no_two_folders_share_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found: list[str] = []
    many = [threading.Thread(target=lambda: found.append(lasting_id(tmp_path / "a"))) for _ in range(8)]
    for each in many:
        each.start()
    for each in many:
        each.join()
    assert set(found) == {lasting_id(tmp_path / "a")}
    assert lasting_id(tmp_path / "b") not in found
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["tracking-id"]
