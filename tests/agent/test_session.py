"""A restart in the same folder names its predecessor; a copy of the folder does not, and is refused for good."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.agent.fake_aggregator import CREDENTIAL, TOKEN
from tests.agent.scene import Scene, play

from fedafd.agent.ledger import read_sent
from fedafd.agent.session import AgentSession
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.errors import IdentityInUseError, UnauthenticatedError
from fedafd.domain.kinds import ParticipantKind
from fedafd.rpc.sessions import sessions_in


def test_a_restart_in_the_same_folder_names_the_sessions_that_ended(tmp_path: Path) -> None:
    first = AgentSession(tmp_path)
    second = AgentSession(tmp_path)
    third = AgentSession(tmp_path)
    assert sessions_in(third.metadata()).ended == (first.own, second.own)
    third.accepted()
    assert sessions_in(third.metadata()).ended == ()
    assert sessions_in(AgentSession(tmp_path).metadata()).ended == (third.own,)


def test_a_copied_folder_knows_of_no_ended_session(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    AgentSession(tmp_path / "site")
    shutil.copytree(tmp_path / "site", tmp_path / "copy")
    assert sessions_in(AgentSession(tmp_path / "copy").metadata()).ended == ()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"place": 1}', "\x00"])
def test_a_broken_session_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "session.json").write_text(content)
    assert sessions_in(AgentSession(tmp_path).metadata()).ended == ()


def test_an_agent_that_stops_says_goodbye(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        await scene.run(scene.settled)

    assert play(tmp_path, scenario).server.goodbyes == 1


def test_an_agent_whose_identity_is_in_use_ends_and_leaves_no_round(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.in_use = True
        with pytest.raises(IdentityInUseError):
            await scene.run(lambda: False)
        scene.server.in_use = False
        scene.trainer.seconds = 30

        def taken_over() -> bool:
            scene.server.in_use = bool(scene.trainer.tasks)
            return False

        with pytest.raises(IdentityInUseError):
            await scene.run(taken_over, token=None)

    assert play(tmp_path, scenario).server.left == []


def _revoked(state_dir: Path, federation: str) -> StateDirectory:
    state = StateDirectory(state_dir)
    state.save_credential(
        Credential(federation_id=federation, client_id="0", client_name="a", kind=ParticipantKind.IMAGE, secret="old")
    )
    return state


@pytest.mark.parametrize(("federation", "kept"), [("f", b"state after 1"), ("other", None)])
def test_a_new_token_replaces_a_refused_credential(tmp_path: Path, federation: str, kept: bytes | None) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign(1)
        await scene.run(scene.settled)
        _revoked(scene.state_dir, federation)
        scene.server.token_used = False
        scene.server.commits.clear()
        scene.server.assign(2)
        with pytest.raises(UnauthenticatedError):
            await scene.run(lambda: False, token=None)
        await scene.run(scene.settled, token=TOKEN)

    scene = play(tmp_path, scenario)
    credential = StateDirectory(scene.state_dir).load_credential()
    assert credential is not None
    assert credential.secret == CREDENTIAL
    assert scene.trainer.tasks[-1].previous_state == kept
    assert (scene.state_dir / f"state-of-{federation}").exists() == (kept is None)
    assert [entry.what for entry in read_sent(scene.state_dir)].count("enrolment") == 2


def test_a_good_credential_spends_no_token(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign(1)
        await scene.run(scene.settled)
        scene.server.token_used = False
        scene.server.commits.clear()
        scene.server.assign(2)
        await scene.run(scene.settled, token=TOKEN)

    assert not play(tmp_path, scenario).server.token_used
