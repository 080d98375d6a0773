"""Real processes: a copied state folder is no second client, a restart needs no patience, a new token is taken."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.end_to_end.federation import FEDERATION, Trial, agent_config, embedded
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.agent.exit_codes import ExitCode
from fedafd.client.answers import Client
from fedafd.local.services import thread_environment
from fedafd.local.supervisor import Child, Supervisor

REFUSED = ExitCode.REFUSED


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


@pytest.fixture
def trial(supervisor: Supervisor, tmp_path: Path, redis_url: str) -> Trial:
    made = Trial(supervisor, embedded(tmp_path, redis_url), tmp_path, distiller=False)
    made.rest.create(FEDERATION)
    return made


def client(trial: Trial) -> Client:
    return next(each for each in trial.rest.clients() if each["name"] == "images")


def said(child: Child, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in child.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


def start(trial: Trial, state_dir: Path, name: str, *arguments: str) -> Child:
    path = trial.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(agent_config("images", state_dir, trial.services.aggregator)))
    command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(path), *arguments]
    return trial.supervisor.start(name, command, thread_environment(1), may_end=True)


def ended(trial: Trial, child: Child, seconds: float = 60.0) -> int:
    trial.supervisor.forget(child)
    return child.process.wait(seconds)


def test_a_copied_state_folder_is_refused_and_shown_and_a_restart_goes_on_at_once(trial: Trial) -> None:
    state_dir, token = trial.folder / "site", trial.rest.invite("images", "image")
    first = start(trial, state_dir, "first", "--token", token)
    trial.until(lambda: bool(said(first, "agent.idle")), "the first agent")
    shutil.copytree(state_dir, trial.folder / "copy")

    second = start(trial, trial.folder / "copy", "second")
    assert ended(trial, second) == ExitCode.SECOND_AGENT
    (told,) = said(second, "agent.ended")
    assert "another agent with this credential is at work" in told["reason"]
    trial.until(lambda: bool(said(first, "agent.second_agent_refused")), "the first agent's warning")
    assert client(trial)["other_agent_refused_at"] is not None
    assert [e["kind"] for e in trial.rest.events()].count("client.second_agent_refused") == 1
    assert first.process.poll() is None

    # The first is killed: the copy has to wait for the lease, a restart in the same folder has not.
    trial.kill(first)
    assert ended(trial, start(trial, trial.folder / "copy", "too-early")) == ExitCode.SECOND_AGENT
    again = start(trial, state_dir, "again")
    trial.until(lambda: bool(said(again, "agent.idle")), "the restarted agent", 60)

    # It ends in good order: then the copy may begin, as when a site moves to another machine.
    again.process.terminate()
    assert ended(trial, again) == 0
    moved = start(trial, trial.folder / "copy", "moved")
    trial.until(lambda: bool(said(moved, "agent.idle")), "the moved agent")


def test_a_revoked_agent_takes_a_new_invitation_from_a_file_with_a_byte_order_mark(trial: Trial) -> None:
    state_dir = trial.folder / "site"
    first = start(trial, state_dir, "first", "--token", trial.rest.invite("images", "image"))
    trial.until(lambda: bool(said(first, "agent.idle")), "the agent")
    trial.rest.revoke("images")
    assert ended(trial, first) == REFUSED
    assert ended(trial, start(trial, state_dir, "revoked")) == REFUSED

    token = trial.rest.invite_again("images")
    (trial.folder / "token.txt").write_bytes(b"\xef\xbb\xbf" + token.encode() + b"\r\n")
    path = trial.folder / "anew.yaml"
    path.write_text(yaml.safe_dump(agent_config("images", state_dir, trial.services.aggregator)))
    environment = thread_environment(1) | {"FEDAFD_AGENT_ENROLMENT_TOKEN_FILE": str(trial.folder / "token.txt")}
    command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(path)]
    anew = trial.supervisor.start("anew", command, environment)
    trial.until(lambda: bool(said(anew, "agent.idle")), "the agent with its new invitation")
    assert client(trial)["state"] == "enrolled"
