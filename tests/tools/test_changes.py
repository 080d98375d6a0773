"""Fragments of the changelog have the names that towncrier reads; it leaves out, without a word, what has another."""

from __future__ import annotations

import re
import tomllib

import pytest
from tests.servers import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
KINDS = {kind["directory"] for kind in SETTINGS["type"]}


def problems(names: list[str]) -> list[str]:
    wanted = re.compile(rf"(\+[a-z0-9-]+|[1-9][0-9]*)\.({'|'.join(sorted(KINDS))})\.md")
    return [name for name in names if not wanted.fullmatch(name)]


def test_each_fragment_has_a_kind_and_says_something() -> None:
    files = [path for path in (ROOT / SETTINGS["directory"]).iterdir() if path.name != "README.md"]
    assert problems([path.name for path in files]) == []
    assert [path.name for path in files if not path.read_text(encoding="utf-8").strip()] == []


@pytest.mark.parametrize("name", ["+words.feature.md", "words.fixed.md", "12.fixed", "+two words.fixed.md"])
def test_a_name_that_towncrier_leaves_out_is_found(name: str) -> None:
    assert problems([name, "12.fixed.md", "+agent-run.added.md"]) == [name]


def test_the_changelog_says_where_a_release_goes() -> None:
    text = (ROOT / SETTINGS["filename"]).read_text(encoding="utf-8")
    assert text.count(SETTINGS["start_string"]) == 1
    page = (ROOT / "changes" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{kind}`" in page for kind in KINDS)
