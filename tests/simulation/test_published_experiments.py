"""docs/results: each table of runs has one command, and what that starts is what the table shows."""

from __future__ import annotations

import csv
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from tests.servers import ROOT
from typer.testing import CliRunner

from fedafd.cli.main import app
from fedafd.simulation.experiment import ExperimentConfig, RunKey, read_experiment
from fedafd.simulation.no_effect import settings_without_effect

RESULTS = ROOT / "docs" / "results"
FILES = sorted(path.stem for path in RESULTS.glob("*.yaml"))
TABLES = sorted(path.stem for path in RESULTS.glob("*.md"))
OLD_DEFAULTS = ["options", "public", "rivals", "small", "staleness", "ten-seeds"]
"""Measured before there were a pool of branches and a cap of weights (docs/results-small-nets.md)."""


def shown(name: str) -> set[tuple[str, str, int]]:
    """Scenario, strategy and seed of each run of a table."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return {(row["scenario"], row["strategy"], int(row["seed"])) for row in csv.DictReader(file)}


def commands(page: Path) -> list[list[str]]:
    """Each `fedafd simulate` of a page that says what it is to run."""
    found = re.findall(r"`(fedafd simulate [^`]*(?:-f|--preset)[^`]*)`", page.read_text(encoding="utf-8"))
    return [shlex.split(text)[1:] for text in found]


@cache
def read(name: str) -> ExperimentConfig:
    return read_experiment(RESULTS / f"{name}.yaml", {}, None)


@pytest.mark.parametrize("name", TABLES)
def test_the_command_of_a_table_starts_the_runs_that_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = commands(RESULTS / f"{name}.md")
    started = CliRunner().invoke(app, [*command, "--output", str(tmp_path), "--report-only"])
    assert started.exit_code == 0, started.output
    experiment = ExperimentConfig.model_validate(json.loads((tmp_path / "results.json").read_text())["experiment"])
    assert {(key.scenario, key.strategy, key.seed) for key in experiment.runs()} == shown(name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_by_its_table_and_all_that_it_sets_counts(name: str) -> None:
    assert read(name).name == name
    assert any(f"docs/results/{name}.yaml" in command for command in commands(RESULTS / f"{name}.md"))
    assert list(settings_without_effect(read(name))) == []


@pytest.mark.parametrize("name", OLD_DEFAULTS)
def test_the_small_nets_have_neither_pool_nor_cap(name: str) -> None:
    for key in read(name).runs():
        config = read(name).federation_config(key)
        assert not config.fusion.alone_branch
        assert config.distillation.weight_cap is None


@pytest.mark.parametrize("page", ["results.md", "results-small-nets.md"])
def test_the_pages_name_only_commands_that_the_tables_have(page: str) -> None:
    """The preset runs today's defaults: where they are not what was measured, a file has to say so."""
    of_tables = [command for name in TABLES for command in commands(RESULTS / f"{name}.md")]
    for command in commands(ROOT / "docs" / page):
        what = command[command.index("-f" if "-f" in command else "--preset") + 1]
        assert any(what in other for other in of_tables), command


def test_the_84_runs_of_every_ablation_are_84() -> None:
    assert len(read("small").runs()) == 84
    assert RunKey(scenario="dirichlet", strategy="fedafd-tokens", seed=6) in read("small").runs()
