"""An agent makes the desired state true, whatever breaks on the way, and tells what left the site."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.agent.fake_aggregator import CREDENTIAL, TOKEN
from tests.agent.scene import MIB, Scene, play

from fedafd.agent import connection as connection_module
from fedafd.agent import read_only
from fedafd.agent.ledger import Ledger, read_sent
from fedafd.agent.state import PendingResult, StateDirectory
from fedafd.agent.task_note import read_task_note
from fedafd.domain.errors import (
    DataError,
    StorageFullError,
)
from fedafd.domain.leaving import LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


def test_agent_enrols_trains_delivers_and_keeps_its_state(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    (commit,) = scene.server.commits
    assert dict(commit.metrics) == {"federated/acc1": 50.0}
    assert commit.num_private_samples == 12
    (upload,) = scene.server.uploads.values()
    assert upload.content() == b"\x01" * (2 * MIB + 10)
    state = StateDirectory(scene.state_dir)
    assert state.current_state() == (1, b"state after 1")
    assert state.load_pending() is None
    credential = state.load_credential()
    assert credential is not None
    assert credential.secret == CREDENTIAL
    assert scene.server.progress[0] == (0.0, "downloading 1 of 4")


def test_until_when_the_round_waits_is_noted_for_the_site_engineer(tmp_path: Path) -> None:
    until = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)

    async def scenario(scene: Scene) -> None:
        scene.trainer.seconds = 60.0
        scene.server.assign()
        scene.server.task.train.deadline.FromDatetime(until)
        await scene.run(scene.trainer.started.is_set)

    note = read_task_note(play(tmp_path, scenario).state_dir)
    assert note is not None
    assert (note.round_number, note.deadline) == (1, until.isoformat())


def test_second_round_goes_on_from_the_state_and_downloads_only_what_is_new(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign(1)
        await scene.run(scene.settled)
        scene.server.commits.clear()
        scene.server.downloads.clear()
        scene.server.assign(2)
        await scene.run(scene.settled, token=None)

    scene = play(tmp_path, scenario)
    assert [task.previous_state for task in scene.trainer.tasks] == [None, b"state after 1"]
    assert len(scene.server.downloads) == 2
    assert StateDirectory(scene.state_dir).current_state() == (2, b"state after 2")


def test_broken_transfers_continue_where_they_broke(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.break_downloads = 2
        scene.server.break_uploads = 2
        scene.server.break_commits = 1
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    offsets = [offset for sha, offset in scene.server.downloads if len(scene.server.blobs[sha]) > MIB]
    assert offsets == [0, MIB, 2 * MIB]
    assert len(scene.server.commits) == 2
    assert len(scene.trainer.tasks) == 1
    assert StateDirectory(scene.state_dir).current_state() == (1, b"state after 1")


def test_corrupt_download_is_noticed_and_repeated_from_the_start(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.corrupt_downloads = 1
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert len(scene.server.commits) == 1
    assert [offset for sha, offset in scene.server.downloads if len(scene.server.blobs[sha]) > MIB] == [0, 0]


def test_download_that_stays_corrupt_leaves_the_round_with_that_reason(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.corrupt_downloads = 99
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.DOWNLOAD_CORRUPT]
    assert scene.trainer.tasks == []


def test_agent_stopped_while_training_begins_the_same_task_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.trainer.seconds = 60
        await scene.run(lambda: bool(scene.trainer.tasks))
        assert scene.server.left == []
        scene.trainer.seconds = 0
        await scene.run(scene.settled, token=None)

    scene = play(tmp_path, scenario)
    first, second = scene.trainer.tasks
    assert first == second
    assert len(scene.server.commits) == 1


def test_trained_result_is_delivered_after_a_restart_without_training_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        # Not `break_uploads`: a chunk arrives with each of its tries, and with the last one the agent would commit.
        scene.server.surprises["UploadChunks"] = [grpc.StatusCode.UNAVAILABLE] * 10_000
        await scene.run(lambda: bool(scene.server.uploads))
        assert not scene.server.commits
        scene.server.surprises.clear()
        await scene.run(scene.settled, token=None)

    scene = play(tmp_path, scenario)
    assert len(scene.trainer.tasks) == 1
    assert len(scene.server.commits) == 1
    assert StateDirectory(scene.state_dir).current_state() == (1, b"state after 1")


def test_receipt_that_a_crash_swallowed_is_asked_for_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.break_commits = 10**6
        await scene.run(lambda: bool(scene.server.commits))
        assert StateDirectory(scene.state_dir).current_state() is None
        scene.server.break_commits = 0
        scene.server.set_task(idle=pb.IdleTask(reason="round 1 is over"))
        await scene.run(lambda: StateDirectory(scene.state_dir).current_state() is not None, token=None)

    scene = play(tmp_path, scenario)
    assert len(scene.trainer.tasks) == 1
    assert StateDirectory(scene.state_dir).load_pending() is None


def test_a_delivery_that_the_disk_did_not_take_note_of_counts_in_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails between the receipt and the note of it, and works again later."""
    promote = StateDirectory.promote

    def on_a_failing_disk(self: StateDirectory, pending: PendingResult) -> None:
        if not noted:
            noted.append(pending.round_number)
            raise OSError(errno.EIO, "Input/output error")
        promote(self, pending)

    noted: list[int] = []
    monkeypatch.setattr(StateDirectory, "promote", on_a_failing_disk)

    async def scenario(scene: Scene) -> None:
        scene.server.assign(1)
        await scene.run(scene.settled)
        assert StateDirectory(scene.state_dir).current_round() is None
        await scene.run(lambda: StateDirectory(scene.state_dir).current_round() == 1, token=None)
        scene.server.assign(2)
        await scene.run(lambda: StateDirectory(scene.state_dir).current_round() == 2, token=None)

    scene = play(tmp_path, scenario)
    assert noted == [1]
    assert [task.previous_state for task in scene.trainer.tasks] == [None, b"state after 1"]


def test_a_folder_that_is_read_only_for_a_while_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_only, "_FIRST_PAUSE_SECONDS", 0.01)
    record, left = Ledger.record, [3]

    def refused(self: Ledger, what: str, **entry: Any) -> None:
        if what != "enrolment" and left[0]:
            left[0] -= 1
            raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))
        record(self, what, **entry)

    monkeypatch.setattr(Ledger, "record", refused)

    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert (len(scene.trainer.tasks), len(scene.server.commits), scene.server.left) == (1, 1, [])
    waited = [
        done
        for (_, doing), done in zip(scene.server.progress, scene.server.work_done, strict=True)
        if doing == "waiting for its disk"
    ]
    assert len(waited) == 3
    assert len(set(waited)) == 1, "waiting is no work"


def test_a_site_that_cannot_note_why_it_leaves_stays_silent_and_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign(1)
        scene.trainer.fails = DataError("train.csv: line 7 is empty")

        record = Ledger.record

        def refused(self: Ledger, what: str, **entry: Any) -> None:
            if what == "leave":
                raise StorageFullError("the disk is full")
            record(self, what, **entry)

        monkeypatch.setattr(Ledger, "record", refused)
        await scene.run(lambda: len(scene.trainer.tasks) == 1)
        assert scene.server.left == []

    play(tmp_path, scenario)


def test_rejected_delivery_does_not_become_the_state(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.reject = "row 3 is not finite"
        await scene.run(scene.settled)

    state = StateDirectory(play(tmp_path, scenario).state_dir)
    assert state.current_state() is None
    assert state.load_pending() is None


def test_failed_training_leaves_the_round_and_takes_part_in_the_next(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign(1)
        scene.trainer.fails = DataError("train.csv: line 7 is empty")
        await scene.run(scene.settled)
        scene.trainer.fails = None
        scene.server.assign(2)
        await scene.run(lambda: bool(scene.server.commits), token=None)

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.DATA_UNUSABLE]
    assert len(scene.server.commits) == 1


def test_unknown_errors_travel_as_unexpected(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.trainer.fails = ValueError("patient 4711 has")
        await scene.run(scene.settled)

    assert play(tmp_path, scenario).server.left == [LeaveReason.UNEXPECTED]


def test_closed_round_is_dropped_without_a_word(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.trainer.seconds = 60
        running = asyncio.ensure_future(scene.run(lambda: scene.server.task.HasField("idle")))
        await asyncio.to_thread(scene.trainer.started.wait, 10)
        scene.server.keep_going = False
        await asyncio.sleep(1.5)
        scene.server.set_task(idle=pb.IdleTask(reason="round 1 was cancelled"))
        await running

    scene = play(tmp_path, scenario)
    assert scene.server.commits == []
    assert scene.server.left == []
    assert StateDirectory(scene.state_dir).current_state() is None


def test_personalized_model_leaves_only_when_both_sides_agree(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for number, (shares, accepts) in enumerate([(True, True), (True, False), (False, True)], start=1):
            scene.share = {"personalized_model": shares}
            scene.server.commits.clear()
            scene.server.assign(number, accepts_model=accepts)
            await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    models = [
        u for u in scene.server.uploads.values() if u.request.upload_purpose == pb.UPLOAD_PURPOSE_PERSONALIZED_MODEL
    ]
    assert [upload.content() for upload in models] == [b"model"]


def test_weights_leave_only_where_the_site_says_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for number, shares in enumerate([False, True], start=1):
            scene.share = {"weights": shares}
            scene.server.left.clear() if shares else None
            scene.server.assign(number, strategy="fedavg")
            await scene.run(scene.settled)
            if not shares:
                assert scene.server.left == [LeaveReason.WEIGHTS_NOT_SHARED]
                assert not scene.server.uploads

    scene = play(tmp_path, scenario)
    weights = [u for u in scene.server.uploads.values() if u.request.upload_purpose == pb.UPLOAD_PURPOSE_WEIGHTS]
    assert [upload.content() for upload in weights] == [b"weights"]


def test_metrics_stay_when_the_site_says_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.share = {"metrics": False}
        scene.server.assign()
        await scene.run(scene.settled)

    (commit,) = play(tmp_path, scenario).server.commits
    assert dict(commit.metrics) == {}
    assert commit.num_private_samples == 0


def test_ledger_names_everything_that_left(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.share = {"personalized_model": True}
        scene.server.assign(accepts_model=True)
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    entries = list(read_sent(scene.state_dir))
    assert [(e.what, e.round) for e in entries] == [
        ("enrolment", 0),
        ("representations", 1),
        ("personalized-model", 1),
        ("metrics", 1),
        ("calls", 1),
        ("calls", 0),
    ]
    sent = {upload.request.sha256: upload.request.size_bytes for upload in scene.server.uploads.values()}
    assert {e.sha256: e.bytes for e in entries if e.what in ("representations", "personalized-model")} == sent
    (told,) = [e for e in entries if e.what == "metrics"]
    assert json.loads(told.detail)["metrics"] == {"federated/acc1": 50.0}
    assert TOKEN not in (scene.state_dir / "sent.jsonl").read_text()
    # Each small call that came in is counted, and its bytes; those of enrolment and delivery have their own lines.
    counted, size_bytes = Counter[str](), 0
    for entry in entries:
        if entry.what == "calls":
            size_bytes += entry.bytes
            counted.update({name: int(count) for count, name in (part.split() for part in entry.detail.split(", "))})
    assert {"FetchTask", "ReportProgress", "BeginUpload"} <= counted.keys()
    # The agent's end cancels its last poll, which may not have come in yet: what may have left is counted.
    cancelled = counted - scene.server.small_calls
    assert cancelled in (Counter(), Counter({"FetchTask": 1}))
    assert counted == scene.server.small_calls + cancelled
    assert size_bytes == scene.server.small_bytes or (cancelled and size_bytes > scene.server.small_bytes)
