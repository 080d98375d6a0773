"""A privacy budget is spent before it is used, outlasts kills and restarts, and no round goes beyond it."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.agent.compared import ComparedSite
from tests.agent.scene import Scene, play
from tests.learning.tiny import NORMLESS_IMAGE
from typer.testing import CliRunner

from fedafd.agent import connection as connection_module
from fedafd.agent.explain import explained
from fedafd.agent.ledger import Ledger, read_sent
from fedafd.agent.privacy_account import PrivacyAccount, budget_words, read_account
from fedafd.cli.main import app
from fedafd.domain.config import AgentConfig, FederationConfig, parse_agent_config, parse_federation_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.leaving import LeaveReason
from fedafd.domain.process_errors import PolicyRefusedError
from fedafd.learning.privacy_accountant import Spending, epsilon_of

DP: dict[str, Any] = {"epsilon": 4.0, "delta": 1e-5, "samples": 2000}


def agent(**changes: Any) -> AgentConfig:
    values: dict[str, Any] = {
        "aggregator": "127.0.0.1:1",
        "kind": "image",
        "data": {"adapter": "shapes"},
        "share": {"metrics": False},
        "privacy": {"dp": DP},
    }
    return parse_agent_config(values | changes)


def federation(epochs: int = 5) -> FederationConfig:
    return parse_federation_config({"name": "f", "client": {"local_epochs": epochs}})


def account(root: Path, **dp: Any) -> PrivacyAccount:
    return PrivacyAccount(agent(privacy={"dp": DP | dp}), root, Ledger(root))


def test_epsilon_grows_over_rounds_and_stops_at_the_budget(tmp_path: Path) -> None:
    here = account(tmp_path)

    def go_on() -> None:
        for number in range(1, 100):
            here.spend(federation(), number, is_new=number == 1)

    with pytest.raises(PolicyRefusedError, match=r"budget does not suffice: epsilon .* of 4 is spent") as refused:
        go_on()
    assert refused.value.reason is LeaveReason.POLICY_ROUNDS
    told = [entry.epsilon for entry in read_account(tmp_path)]
    assert len(told) > 2 and told == sorted(set(told)) and told[-1] <= 4
    with pytest.raises(PolicyRefusedError):
        here.need(federation(), len(told) + 1, is_new=False)
    # A smaller round may still fit, and a larger budget lets more in; neither forgets what is spent.
    account(tmp_path, epsilon=50.0).spend(federation(), len(told) + 1, is_new=False)
    assert read_account(tmp_path)[-1].epsilon > 4
    written = [entry for entry in read_sent(tmp_path) if entry.what == "privacy"]
    assert len(written) == len(told) + 1 and "of 4 at delta 1e-05" in written[0].detail


def test_a_round_that_would_spend_more_than_is_left_at_once_is_refused_whole(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefusedError):
        account(tmp_path).spend(federation(epochs=1000), 1, is_new=True)
    assert read_account(tmp_path) == () and not list(read_sent(tmp_path))


def test_who_is_killed_in_training_has_spent_it(tmp_path: Path) -> None:
    here = account(tmp_path)
    here.need(federation(), 1, is_new=True)
    child = os.fork()
    if not child:
        try:
            here.spend(federation(), 1, is_new=True)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (spent,) = read_account(tmp_path)
    account(tmp_path).spend(federation(), 1, is_new=True)
    again = read_account(tmp_path)
    assert again[0] == spent and again[1].epsilon > spent.epsilon


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"at": "x"}]', None])
def test_an_account_that_is_damaged_or_gone_ends_training_and_is_not_begun_anew(
    tmp_path: Path, content: bytes | None
) -> None:
    account(tmp_path).spend(federation(), 1, is_new=True)
    path = tmp_path / "privacy.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"privacy\.json.*put it back"):
        account(tmp_path).spend(federation(), 2, is_new=False)


@pytest.mark.parametrize(
    "cheaper", [{"steps": -100}, {"steps": 0.5}, {"steps": True}, {"noise_multiplier": math.inf}, {"sampling_rate": 0}]
)
def test_numbers_that_make_it_cheaper_are_no_account(tmp_path: Path, cheaper: dict[str, float]) -> None:
    account(tmp_path).spend(federation(), 1, is_new=True)
    path = tmp_path / "privacy.json"
    (entry,) = json.loads(path.read_text())
    path.write_text(json.dumps([entry | cheaper]))
    with pytest.raises(ConfigurationError, match="out of range"):
        read_account(tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "pair"}, "pair client"),
        ({"share": {"metrics": True}}, r"share\.metrics: false"),
        ({"share": {}}, r"share\.metrics: false"),
        ({"share": {"metrics": False, "personalized_model": True}}, r"share\.personalized_model: false"),
        ({"share": {"metrics": False, "weights": True}}, r"share\.weights: false"),
        ({"privacy": {"dp": DP | {"delta": 0.01}}}, "less than 1 / samples"),
        ({"privacy": {"dp": DP | {"noise_multiplier": 0}}}, "noise_multiplier"),
        ({"privacy": {"dp": {"epsilon": 1.0, "delta": 1e-6}}}, "samples"),
    ],
)
def test_what_a_budget_cannot_cover_is_refused_in_agent_yaml(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        agent(**changes)


def test_it_is_told_what_is_promised_and_what_is_spent(tmp_path: Path) -> None:
    told = "\n".join(explained(agent()))
    assert "(4, 1e-05)-differentially private" in told and "Not covered" in told
    assert "differentially private" not in "\n".join(explained(agent(privacy={})))
    words, warnings = budget_words(agent(), tmp_path)
    assert words.startswith("epsilon 0 of 4") and not warnings
    Ledger(tmp_path).record("representations", sha256="0" * 64, size_bytes=1, round_number=1)
    _, warnings = budget_words(agent(privacy={"dp": DP | {"noise_multiplier": 0.3}}), tmp_path)
    assert "not even one round" in warnings[0] and "1 rounds were delivered without privacy.dp" in warnings[1]


def test_rounds_without_a_budget_are_told_also_where_rounds_with_one_came_before(tmp_path: Path) -> None:
    """Somebody takes privacy.dp out of agent.yaml for two rounds, delivers one of them twice, and puts it back."""
    ledger = Ledger(tmp_path)
    for number in (1, 2, 3, 4):
        if number in (1, 4):
            account(tmp_path).spend(federation(), number, is_new=number == 1)
        for _ in range(number if number < 3 else 1):
            ledger.record("representations", sha256="0" * 64, size_bytes=1, round_number=number)
    _, (warning, *_) = budget_words(agent(privacy={"dp": DP | {"epsilon": 100.0}}), tmp_path)
    assert warning == "2 rounds were delivered without privacy.dp; no budget covers what left in them"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


def test_an_agent_pays_once_for_a_round_and_leaves_the_one_it_cannot_pay(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.share, scene.privacy = {"metrics": False}, {"dp": DP | {"epsilon": 3.0}}
        scene.server.assign()
        scene.server.surprises["UploadChunks"] = [grpc.StatusCode.UNAVAILABLE] * 10_000
        await scene.run(lambda: bool(scene.server.uploads))
        # What is trained and paid for is delivered after a restart, though nothing is left.
        scene.privacy = {"dp": DP | {"epsilon": 0.01}}
        assert not scene.server.commits
        scene.server.surprises.clear()
        await scene.run(scene.settled, token=None)
        assert scene.server.commits and not scene.server.left
        scene.server.assign(2)
        await scene.run(lambda: bool(scene.server.left), token=None)

    epsilon_of([Spending(1.0, 0.1, 1)], 1e-5)  # its import is slower than the scene waits
    scene = play(tmp_path, scenario)
    assert [entry.round for entry in read_account(scene.state_dir)] == [1]
    (left,) = scene.server.left
    assert left is LeaveReason.POLICY_ROUNDS
    assert len(scene.trainer.tasks) == 1 and scene.trainer.tasks[0].dp is not None


def test_a_site_delivers_what_dp_sgd_trained_and_its_status_has_the_cost(tmp_path: Path) -> None:
    site = ComparedSite(
        tmp_path,
        share={"metrics": False},
        privacy={"dp": {"epsilon": 500.0, "delta": 1e-3, "samples": 40}},
        image_encoder=NORMLESS_IMAGE,
    )
    client = site.federation.client.model_copy(update={"vocabulary": "public"})
    site.federation = site.federation.model_copy(update={"client": client})
    here = PrivacyAccount(site.config, site.root, Ledger(site.root))

    def task(number: int) -> Any:
        made = site.task(number)
        new = made.previous_state is None
        return replace(made, dp=site.config.privacy.dp, spend=lambda: here.spend(site.federation, number, is_new=new))

    for number in (1, 2):
        site.deliver(number, site.site.train(task(number), lambda *_: None))
    assert task(3).key() != replace(task(3), dp=None).key()
    first, second = read_account(site.root)
    assert first.epsilon < second.epsilon
    shown = CliRunner().invoke(app, ["agent", "status", "--config", str(site.file)])
    assert f"epsilon {second.epsilon:.3g} is spent" in shown.output, shown.output
