"""Every object has one place, and all of them are in the document."""

from __future__ import annotations

import re

from tests.servers import ROOT

from fedafd.artifacts import keys, stage_io
from fedafd.artifacts.keys import RoundObjects
from fedafd.storage.store import check_key

ROUND = RoundObjects("f", 7)
STORED = {
    keys.public_set_manifest("sha"): "public-sets/{sha}/manifest.json",
    keys.public_set_shard("sha", "train-0.parquet"): "public-sets/{sha}/{shard}.parquet",
    ROUND.artifact("weights", "sha", client="north"): "federations/{f}/rounds/{n}/weights/{client}/{sha}",
    ROUND.artifact("server-state", "sha"): "federations/{f}/rounds/{n}/server-state/{sha}",
    ROUND.artifact("encoder-bundle/image", "sha"): "federations/{f}/rounds/{n}/encoder-bundle/{modality}/{sha}",
    ROUND.arriving("upload"): "federations/{f}/rounds/{n}/chunks/{upload}/bytes",
    ROUND.model_file("config.json"): "federations/{f}/models/{version}/{path}",
    keys.personalized_model_file("f", "north", 7, "a.json"): "federations/{f}/clients/{client}/models/{version}/{path}",
}


def test_keys_are_those_of_the_document() -> None:
    text = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")
    for key, pattern in STORED.items():
        assert f"`{pattern}`" in text
        assert re.fullmatch(re.sub(r"\\{\w+\\}", r"[^/]+", re.escape(pattern)), key), (key, pattern)
        assert check_key(key) == key


def test_equal_bytes_of_two_clients_are_two_artifacts_where_each_counts() -> None:
    assert ROUND.artifact("weights", "s", client="a") != ROUND.artifact("weights", "s", client="b")


def test_prefixes_hold_what_they_name() -> None:
    assert ROUND.artifact("x", "s").startswith(ROUND.artifacts)
    assert ROUND.arriving("u").startswith(ROUND.artifacts)
    assert ROUND.model_file("p").startswith(ROUND.model)
    assert not RoundObjects("f", 71).artifact("x", "s").startswith(ROUND.artifacts)


def test_what_a_key_belongs_to_is_read_from_it() -> None:
    matched = [keys.OF_AN_UPLOAD.match(ROUND.arriving("u")), keys.OF_A_FEDERATION.match(ROUND.artifact("x", "s"))]
    matched += [keys.OF_A_ROUND.match(key) for key in (ROUND.arriving("u"), ROUND.model_file("p"))]
    matched.append(keys.OF_A_ROUND.match(keys.personalized_model_file("f", "c", 7, "p")))
    assert [each and each.groupdict() for each in matched] == [
        {"federation": "f", "upload": "u"},
        {"federation": "f"},
        *[{"federation": "f", "number": "7"}] * 3,
    ]


def modules_with(pattern: str, *, but: str) -> list[str]:
    package = ROOT / "services" / "fedafd"
    return [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8")) and path != package / "artifacts" / but
    ]


def test_no_other_module_makes_a_key() -> None:
    assert modules_with(r"""["'](?:public-sets["'/]|federations/)""", but="keys.py") == []


def test_no_other_module_names_what_stages_read_and_write() -> None:
    names = [getattr(stage_io, name) for name in stage_io.__all__ if isinstance(getattr(stage_io, name), str)]
    told = "|".join(re.escape(name) for name in names if "-" in name)
    assert modules_with(rf"""["'](?:{told})""", but="stage_io.py") == []
