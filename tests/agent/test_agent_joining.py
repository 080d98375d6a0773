"""How an agent comes to its aggregator, and what ends it for good."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from tests.agent.fake_aggregator import CREDENTIAL
from tests.agent.scene import Scene, play

from fedafd.agent import connection as connection_module
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.errors import (
    ConfigurationError,
    InvalidRequestError,
    UnauthenticatedError,
)
from fedafd.domain.kinds import ParticipantKind
from fedafd.rpc.status import PASSING


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


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
