"""`fedafd agent export` gives the site's model, whole, and overwrites nothing that it should not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.agent.test_site_model import Site
from typer.testing import CliRunner, Result

from fedafd import PersonalizedModel
from fedafd.cli.main import app
from fedafd.domain.errors import ConfigurationError, ConflictError, DataError


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["agent", "export", *map(str, arguments)])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "site")
    made.deliver(1)
    return made


def round_of(folder: Path) -> int:
    assert not folder.is_symlink()
    PersonalizedModel.from_pretrained(folder, device="cpu").predict(["two red dogs"])
    return int(json.loads((folder / "config.json").read_bytes())["lineage"]["round"])


def test_the_copy_is_the_sites_model_and_stays_when_a_round_replaces_it(site: Site, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "copy"
    result = ask(output, "--state-dir", site.state.root)
    assert result.exit_code == 0, result.exception
    site.deliver(2)
    assert round_of(output) == 1
    assert isinstance(ask(output, "--state-dir", site.state.root).exception, ConflictError)
    assert round_of(output) == 1
    assert ask(output, "--state-dir", site.state.root, "--force").exit_code == 0
    assert round_of(output) == 2
    assert [path.name for path in output.parent.iterdir()] == ["copy"]


def test_force_replaces_nothing_but_a_model(site: Site, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to(home)
    for output in (home, tmp_path / "link", home / "thesis.txt"):
        result = ask(output, "--state-dir", site.state.root, "--force")
        assert isinstance(result.exception, ConflictError)
        assert "--force replaces nothing else" in str(result.exception)
    assert (home / "thesis.txt").read_text() == "years of work"


def test_the_agents_yaml_names_the_state_directory(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"aggregator: a:1\nkind: text\ndata: {{adapter: shapes}}\nstate_dir: {site.state.root}\n", encoding="utf-8"
    )
    assert ask(tmp_path / "copy", "--config", config).exit_code == 0
    assert round_of(tmp_path / "copy") == 1


def test_before_the_first_round_it_says_that_there_is_none(tmp_path: Path) -> None:
    empty = Site(tmp_path / "fresh").state.root
    for state_dir, words in ((empty, "has no model yet"), (tmp_path / "nowhere", "no such folder")):
        result = ask(tmp_path / "copy", "--state-dir", state_dir)
        assert isinstance(result.exception, DataError)
        assert words in str(result.exception)
        assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["models/mine", "state/mine", "artifacts/mine", "model/mine"])
def test_a_copy_is_never_put_where_the_agent_would_remove_it(site: Site, name: str) -> None:
    result = ask(site.state.root / name, "--state-dir", site.state.root)
    assert isinstance(result.exception, ConflictError)
    assert "where the agent removes" in str(result.exception)


def test_a_place_that_cannot_be_made_is_named_as_it_was_given(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = ask(tmp_path / "file" / "copy", "--state-dir", site.state.root)
    assert isinstance(result.exception, ConfigurationError)
    assert f"{tmp_path / 'file' / 'copy'}: cannot be made" in str(result.exception)
