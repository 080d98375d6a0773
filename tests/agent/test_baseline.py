"""The baseline trains alone what the federation trains together, and what stops it changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.agent.compared import ComparedSite
from typer.testing import CliRunner

from fedafd.agent.baseline import advance, baseline_target
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.benefit import benefits
from fedafd.agent.kept_scores import KeptScores
from fedafd.agent.own_data import load_own_data
from fedafd.agent.saved_state import fingerprint_of_site
from fedafd.cli.main import app
from fedafd.domain.errors import ConflictError, DataError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.baseline import train_baseline
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.comparison import paired_difference


def wanted_state(site: ComparedSite, rounds: int) -> bytes:
    """The same by hand."""
    current = site.state.current_state()
    assert current is not None
    data, state = load_own_data(site.config, site.root).data, None
    for number in range(1, rounds + 1):
        made = train_baseline(
            config=site.federation,
            kind=site.kind,
            image_encoder=site.config.image_encoder,
            text_encoder=site.config.text_encoder,
            data=data,
            client="clinic",
            round_number=number,
            state=state,
            tokenizer=Checkpoint.from_bytes(current[1]).meta["tokenizer"],
            device="cpu",
            fingerprint=fingerprint_of_site(site.config, data.labels),
        )
        state = made.state
    assert state is not None
    return state


def state_of(site: ComparedSite) -> bytes:
    path = BaselineFolder(site.root).state()[1]
    assert path is not None
    return path.read_bytes()


@pytest.mark.parametrize("kind", ClientKind)
def test_it_trains_for_as_many_rounds_as_were_delivered_and_is_compared_sample_by_sample(
    tmp_path: Path, kind: ClientKind
) -> None:
    site = ComparedSite(tmp_path, kind)
    for number in (1, 3):  # it missed one
        site.deliver(number)
    assert advance(site.config) == 2
    assert advance(site.config) == 2
    assert state_of(site) == wanted_state(site, 2)
    assert [each.participation for each in benefits(site.root)] == [1, 2]
    for each in benefits(site.root):
        split = each.splits["test"]
        assert list(split.values) == ["federated", "local", "global", "alone"]
        for view in ("local", "global", "alone"):
            assert split.differences[view].mean == pytest.approx(split.values["federated"] - split.values[view])
            assert split.differences[view].num_samples == 24


def test_its_first_weights_are_those_of_the_federated_model(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.federation = site.federation.model_copy(
        update={"client": site.federation.client.model_copy(update={"text": _still(site), "local_epochs": 1})}
    )
    site.deliver(1)
    advance(site.config)
    current = site.state.current_state()
    assert current is not None
    ours, theirs = Checkpoint.from_bytes(state_of(site)), Checkpoint.from_bytes(current[1])
    assert ours.meta["tokenizer"] == theirs.meta["tokenizer"]
    for name in ours.tensors:
        if name.startswith("model/encoders"):
            assert np.allclose(ours.tensors[name], theirs.tensors[name], atol=1e-6), name


def _still(site: ComparedSite) -> object:
    return site.federation.client.text.model_copy(update={"learning_rate": 1e-12, "optimizer": "sgd"})


def test_before_a_delivered_round_there_is_nothing_to_train(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    assert baseline_target(site.root, ahead=1) == 0
    assert advance(site.config, ahead=1) == 0
    result = CliRunner().invoke(app, ["agent", "baseline", "--config", str(site.file)])
    assert isinstance(result.exception, DataError)
    assert "no round is delivered yet" in str(result.exception)


def test_two_processes_never_train_it_together(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    with BaselineFolder(site.root).locked(), pytest.raises(ConflictError, match="another process"):
        advance(site.config)


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from fedafd.agent.baseline import advance
from fedafd.domain.config import read_agent_config

def progress(number, share, activity):
    if (number, activity.step) == (int(sys.argv[2]), int(sys.argv[3])):
        # On a busy machine a thread may still be writing what an epoch left.
        for thread in threading.enumerate():
            if thread.name == "waypoint":
                thread.join()
        os.kill(os.getpid(), signal.SIGKILL)

advance(read_agent_config(Path(sys.argv[1])), progress=progress)
"""


def test_killed_in_any_epoch_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    for number in (1, 2):
        site.deliver(number)
    kept = []
    for place in ((1, 1), (1, 2), (2, 2)):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(site.file), *map(str, place)], check=False)
        assert ended.returncode == -signal.SIGKILL
        kept.append((BaselineFolder(site.root).done(), len(list(BaselineFolder(site.root).way.glob("*/training")))))
    # Nothing at first; then the first epoch; then the first round, and an epoch of the second.
    assert kept == [(0, 0), (0, 1), (1, 1)]
    steps: list[tuple[int, int]] = []
    assert advance(site.config, progress=lambda number, _, activity: steps.append((number, activity.step))) == 2
    assert set(steps) == {(2, 2)}, "only what was not done is done again"
    assert state_of(site) == wanted_state(site, 2)
    assert not BaselineFolder(site.root).way.exists()


def test_the_command_tells_what_the_federation_gave(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    mine = site.deliver(1).scores
    result = CliRunner().invoke(app, ["agent", "baseline", "--config", str(site.file)])
    assert result.exit_code == 0, result.exception
    assert result.output.startswith("round 1: personalized model ")
    assert "trained alone " in result.output
    assert "(acc1 in % on 24 test samples)" in result.output
    (found,) = benefits(site.root)
    alone = BaselineFolder(site.root).scores(1)
    assert alone is not None
    assert mine is not None
    one = KeptScores.from_bytes(mine).splits["test"].views["federated"].scores
    assert found.splits["test"].differences["alone"] == paired_difference(
        one, alone.splits["test"].views["alone"].scores
    )


def test_a_reset_sets_the_baseline_aside_with_the_state(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    advance(site.config)
    site.state.set_state_aside("test")
    assert BaselineFolder(site.root).done() == 0
    assert benefits(site.root) == []
    assert list((site.root / "state").iterdir()) == []


def test_a_reset_waits_for_the_baseline_that_is_being_trained(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    with BaselineFolder(site.root).locked():
        refused = CliRunner().invoke(app, ["agent", "reset", "--config", str(site.file)])
    assert isinstance(refused.exception, ConflictError)
    assert site.state.current_round() == 1
    assert CliRunner().invoke(app, ["agent", "reset", "--config", str(site.file)]).exit_code == 0
    assert site.state.current_round() is None
