"""An agent makes the desired state true, whatever breaks on the way, and tells what left the site."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.fake_aggregator import CREDENTIAL, TOKEN, FakeAggregator

from fedafd.agent import connection as connection_module
from fedafd.agent import read_only
from fedafd.agent.ledger import Ledger, read_sent
from fedafd.agent.metrics import AgentMetrics
from fedafd.agent.runner import Agent, StoppedByServerError
from fedafd.agent.state import Credential, PendingResult, StateDirectory
from fedafd.agent.training import LocalResult, LocalTask, ProgressCallback
from fedafd.domain.config import parse_agent_config
from fedafd.domain.errors import (
    ConfigurationError,
    DataError,
    InvalidRequestError,
    StorageFullError,
    UnauthenticatedError,
)
from fedafd.domain.kinds import Modality, ParticipantKind
from fedafd.domain.leaving import Activity, ActivityKind, LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.status import PASSING

MIB = 1 << 20
_HALF = Activity(ActivityKind.TRAINING, 1, 2)


class CountingTrainer:
    """Returns at once something that depends on the task only; counts how often it was asked."""

    def __init__(self, fails: Exception | None = None, seconds: float = 0.0) -> None:
        self.tasks: list[LocalTask] = []
        self.started = threading.Event()
        self.fails, self.seconds = fails, seconds

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        self.tasks.append(task)
        self.started.set()
        task.spend()
        assert set(task.encoder_bundles) == {Modality.IMAGE}
        assert hashlib.sha256(task.manifest.read_bytes()).hexdigest() == task.public_set_sha256
        end = time.monotonic() + self.seconds
        progress(0.5, _HALF)
        while time.monotonic() < end:
            time.sleep(0.01)
            progress(0.5, _HALF)
        if self.fails is not None:
            raise self.fails
        return LocalResult(
            representations=bytes([task.seed]) * (2 * MIB + 10),
            state=f"state after {task.round_number}".encode(),
            personalized_model=b"model" if task.share_model else None,
            weights=b"weights" if task.config.averaging == "weights" else None,
            metrics={"federated/acc1": 50.0},
            num_private_samples=12,
        )


class Scene:
    """A fake aggregator and one agent's directory; agents come and go."""

    def __init__(self, tmp_path: Path) -> None:
        self.state_dir = tmp_path / "site"
        self.server = FakeAggregator()
        self.trainer = CountingTrainer()
        self.share: dict[str, bool] = {}
        self.policy: dict[str, Any] = {}
        self.privacy: dict[str, Any] = {}
        self.kind = "image"

    async def run(self, until: Callable[[], bool], token: str | None = TOKEN, seconds: float = 20.0) -> None:
        """Run an agent until the condition holds, then stop it in good order."""
        config = parse_agent_config(
            {
                "aggregator": self.server.address,
                "kind": self.kind,
                "data": {"adapter": "shapes"},
                "state_dir": str(self.state_dir),
                "share": self.share,
                "policy": self.policy,
                "privacy": self.privacy,
            }
        )
        state, stop = StateDirectory(self.state_dir), asyncio.Event()
        agent = Agent(
            config,
            self.trainer,
            state,
            stop=stop,
            metrics=AgentMetrics(),
            cache_limit_bytes=1 << 30,
            poll_seconds=5.0,
        )
        running = asyncio.ensure_future(agent.run(token))
        deadline = time.monotonic() + seconds
        try:
            while not running.done() and not until():
                assert time.monotonic() < deadline, "the agent did not get there"
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        finally:
            stop.set()
            await asyncio.wait((running,), timeout=10)
        running.result()

    def settled(self) -> bool:
        return bool(self.server.commits or self.server.left) and self.server.task.HasField("idle")


def play(tmp_path: Path, scenario: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def main() -> Scene:
        scene = Scene(tmp_path)
        await scene.server.start()
        try:
            await scenario(scene)
        finally:
            await scene.server.stop()
        return scene

    return asyncio.run(main())


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
        scene.server.break_uploads = 10**6
        await scene.run(lambda: bool(scene.server.uploads))
        scene.server.break_uploads = 0
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
    ]
    sent = {upload.request.sha256: upload.request.size_bytes for upload in scene.server.uploads.values()}
    assert {e.sha256: e.bytes for e in entries if e.what in ("representations", "personalized-model")} == sent
    assert json.loads(entries[-1].detail)["metrics"] == {"federated/acc1": 50.0}
    assert TOKEN not in (scene.state_dir / "sent.jsonl").read_text()


def test_agent_waits_for_an_aggregator_that_is_not_there_yet(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        address = scene.server.address
        await scene.server.stop()
        running = asyncio.ensure_future(scene.run(scene.settled))
        await asyncio.sleep(0.5)
        assert not running.done()
        scene.server.assign()
        await scene.server.start(address)
        await running

    assert len(play(tmp_path, scenario).server.commits) == 1


def test_agent_waits_where_a_controller_has_no_route_to_the_aggregator(tmp_path: Path) -> None:
    asked = asyncio.Queue[asyncio.StreamWriter]()

    async def not_found(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An HTTP/2 server that has one answer, as an Ingress controller for a name that it does not know."""
        await reader.readexactly(24)  # the preface
        writer.write(bytes(3) + b"\x04" + bytes(5))  # SETTINGS
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == 1:  # HEADERS: the answer is `:status 404`, which is number 13 of HPACK's static table
                    asked.put_nowait(writer)
                    writer.write(b"\x00\x00\x01\x01\x05" + head[5:] + b"\x8d")
        writer.close()

    async def scenario(scene: Scene) -> None:
        host, _, port = scene.server.address.rpartition(":")
        await scene.server.stop()
        front = await asyncio.start_server(not_found, host, int(port))
        running = asyncio.ensure_future(scene.run(scene.settled))
        for _ in range(3):
            line = await asyncio.wait_for(asked.get(), 10)
        assert not running.done()
        front.close()
        line.close()
        scene.server.assign()
        await scene.server.start(f"{host}:{port}")
        await running

    assert len(play(tmp_path, scenario).server.commits) == 1


@pytest.mark.parametrize(
    "method",
    ["Enroll", "FetchTask", "ReportProgress", "DownloadArtifact", "BeginUpload", "UploadChunks", "CommitUpload"],
)
def test_no_surprising_answer_makes_a_site_throw_its_training_away(tmp_path: Path, method: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.surprises[method] = [code for code, passing in PASSING.items() if passing]
        scene.server.assign()
        await scene.run(lambda: scene.settled() and not scene.server.surprises[method])

    scene = play(tmp_path, scenario)
    assert len(scene.trainer.tasks) == 1
    assert len(scene.server.commits) == 1
    assert not scene.server.left


def test_an_enrolment_whose_answer_was_lost_is_repeated_also_by_the_next_process(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.lost_enrolments = 10**6
        await scene.run(lambda: len(scene.server.nonces) > 2)
        assert not (scene.state_dir / "credential.json").exists()
        scene.server.lost_enrolments = 0
        scene.server.assign()
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert len(set(scene.server.nonces)) == 1
    assert len(scene.server.nonces[0]) == 32
    assert len(scene.server.commits) == 1
    assert not (scene.state_dir / "enrolment.json").exists()


def test_wrong_token_ends_the_agent(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        with pytest.raises(UnauthenticatedError, match="used-up token"):
            await scene.run(lambda: False, token="fedafd-enrol.stolen")
        with pytest.raises(ConfigurationError, match="not enrolled yet"):
            await scene.run(lambda: False, token=None)

    play(tmp_path, scenario)


def test_wrong_kind_ends_the_agent(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.kind = "text"
        with pytest.raises(InvalidRequestError, match="invited as image"):
            await scene.run(lambda: False)
        StateDirectory(scene.state_dir).save_credential(
            Credential(federation_id="f", client_id="1", client_name="a", kind=ParticipantKind.IMAGE, secret=CREDENTIAL)
        )
        with pytest.raises(ConfigurationError, match="kind: text"):
            await scene.run(lambda: False)

    play(tmp_path, scenario)


def test_revoked_client_ends_the_agent(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        await scene.run(scene.settled)
        scene.server.revoked = True
        with pytest.raises(UnauthenticatedError):
            await scene.run(lambda: False, token=None)

    play(tmp_path, scenario)


def test_stop_task_ends_the_agent_with_its_reason(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.set_task(stop=pb.StopTask(reason="the federation was closed"))
        with pytest.raises(StoppedByServerError, match="the federation was closed"):
            await scene.run(lambda: False)

    play(tmp_path, scenario)
