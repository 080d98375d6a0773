"""A site audits what it delivered last, with its own data, and is told in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.agent.compared import ComparedSite
from typer.testing import CliRunner

from fedafd.agent.leakage import audited
from fedafd.agent.own_data import load_own_data
from fedafd.agent.site_attributes import chosen_attribute
from fedafd.cli.main import app
from fedafd.datasets.samples import ImageSplit, PairSplit, TextSplit
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.audited_samples import topic_values, without_topics


def test_the_last_delivery_is_attacked_with_the_sites_own_data(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path, ClientKind.TEXT)
    with pytest.raises(DataError, match="no round is delivered yet"):
        audited(site.config)
    site.deliver(1, follow=False)
    done = CliRunner().invoke(app, ["audit", "leakage", "--config", str(site.file), "--json", "--resamples", "100"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["round"], found["num_members"], found["num_others"]) == (1, 40, 40)
    for each in (found["membership"]["text"], found["labels"]):
        assert -1 <= each["low"] <= each["high"] <= 1
    told = CliRunner().invoke(app, ["audit", "leakage", "--config", str(site.file), "--resamples", "100"]).output
    assert "membership from text representations: advantage" in told and "distribution of classes" in told
    for path in (site.root / "artifacts").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no longer among the downloads"):
        audited(site.config)


def test_an_attribute_is_looked_for_by_topic_or_by_a_file_of_the_sites_own(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path, ClientKind.TEXT)
    site.deliver(1, follow=False)
    texts = list(load_own_data(site.config, site.root).data.train.texts)  # type: ignore[union-attr]
    others = load_own_data(site.config, site.root).data
    every = [*texts, *others.val.texts, *others.test.texts]  # type: ignore[union-attr]
    file = tmp_path / "wards.csv"
    rows = [f'"{text}",{"north" if number % 2 else "south"}' for number, text in enumerate(dict.fromkeys(every))]
    file.write_text("sample,ward\n" + "\n".join(rows) + "\n", encoding="utf-8")
    options = ["audit", "leakage", "--config", str(site.file), "--resamples", "100"]
    told = CliRunner().invoke(app, [*options, "--attributes", str(file)])
    assert "ward from text representations: advantage" in told.output, told.output
    found = json.loads(CliRunner().invoke(app, [*options, "--topic", "red", "--json"]).output)
    assert found["attribute_name"] == "red" and -1 <= found["attribute"]["text"]["low"] <= 1
    # A word that no text has is no attribute of anybody.
    assert audited(site.config, resamples=100, topics=["zebra"]).attribute == {Modality.TEXT: None}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "line 1: must name two columns"),
        ("sample,ward,sex\na,b,c\n", "line 1: must name two columns"),
        ("sample,ward\na\n", "row 2: must have a sample and its value"),
        ("sample,ward\na,n\na,s\n", "row 3: 'a' stands there twice"),
        ("sample,ward\na,n\nb,n\n", "has 1 values"),
        ("sample,ward\na,n\nb,s\n", "names no training sample.*such as 'the one'"),
        ("sample,ward\na,\x00\udc80", "not a CSV file in UTF-8"),
    ],
)
def test_a_file_that_is_no_attribute_is_refused_by_row(tmp_path: Path, content: str, word: str) -> None:
    path = tmp_path / "wards.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=word):
        chosen_attribute((), path, [TextSplit(["the one"], np.zeros(1, dtype=np.int64))])


def test_an_attribute_that_samples_cannot_have_is_refused(tmp_path: Path) -> None:
    pictures = ImageSplit([np.zeros((2, 2, 3), dtype=np.uint8)], np.zeros(1, dtype=np.int64))
    with pytest.raises(ConfigurationError, match="no text; give --attributes"):
        chosen_attribute(["dog"], None, [pictures])
    with pytest.raises(ConfigurationError, match="one of them"):
        chosen_attribute(["dog"], tmp_path / "wards.csv")
    with pytest.raises(DataError, match="cannot be read"):
        chosen_attribute((), tmp_path / "none.csv", [pictures])


def test_the_words_of_a_topic_are_taken_out_whole_and_with_their_plural() -> None:
    assert without_topics("Dogs chase a dog past the dogma", ["dog"]) == "chase a past the dogma"
    split = PairSplit([], [("a cat", "two Dogs"), ("a hot dog", "a cat"), ("a cow",)])
    assert topic_values([split], ["dog", "cat"]).tolist() == [0, 0, 2]
