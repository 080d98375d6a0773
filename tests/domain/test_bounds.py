"""What no federation needs is refused by name: sizes that fill any memory, numbers of rounds that never end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedafd.domain.config import parse_federation_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.yaml_files import MOST_NODES, parse_yaml, read_yaml

RESNET = {"architecture": "resnet", "options": {"hidden_sizes": [16, 32], "depths": [1, 1]}}


def options(**changes: Any) -> dict[str, Any]:
    return {"image_encoder": RESNET | {"options": {**RESNET["options"], **changes}}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        (options(hidden_sizes=[10**9]), "hidden_sizes"),
        (options(depths=[10**9]), "depths"),
        (options(embedding_size=10**6), "embedding_size"),
        (options(anything={"num_layers": [[10**12]]}), "anything.num_layers"),
        (options(many=[1] * 5000), "more than 1000 numbers"),
        ({"client": {"local_epochs": 10**12}}, "client.local_epochs"),
        ({"server": {"batch_size": 10**9}}, "server.batch_size"),
        ({"server": {"accumulate": 10**9}}, "server.accumulate"),
        ({"distillation": {"passes": 10**9}}, "distillation.passes"),
        ({"round_deadline_seconds": 1e300}, "round_deadline_seconds"),
        ({"idle_timeout_seconds": 1e12}, "idle_timeout_seconds"),
        ({"max_upload_bytes": 2**62}, "max_upload_bytes"),
        ({"quorum": {"min_clients": 10**12}}, "quorum.min_clients"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_number_beyond_all_reason_is_refused_by_name(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError, match=path):
        parse_federation_config({"name": "trial", "preset": "small"} | changes)


def test_a_large_encoder_that_exists_is_taken() -> None:
    large = {"hidden_size": 8192, "intermediate_size": 16384, "num_hidden_layers": 80, "vocab_size": 256_000}
    parse_federation_config({"name": "trial", "text_encoder": {"architecture": "bert", "options": large}})


def _bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _bomb(40, 9),
        _bomb(8, 40),
        "a: &a {x: 1}\nb: &b {p: *a, q: *a}\n" + "\n".join(f"k{n}: [{', '.join(['*b'] * 900)}]" for n in range(20)),
        "a: &a [*a]",
        "a: &a {b: {c: *a}}",
        "base: &a {x: 1}\n" + "\n".join(["- &b [*b]"]),
        "[" * 5000,
    ],
    ids=["billions", "wide", "many small", "itself", "itself below", "broken", "deep"],
)
def test_aliases_that_stand_for_too_much_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_aliases_as_people_use_them_are_read() -> None:
    text = "common: &c {lr: 1e-3}\nimage: {<<: *c, size: 3}\ntext: *c\n"
    assert parse_yaml(text)["image"] == {"lr": 1e-3, "size": 3}
    assert len(parse_yaml("\n".join(f"- {n}" for n in range(MOST_NODES - 1)))) == MOST_NODES - 1
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-7", -7),
        ("0o10", 8),
        ("0x1f", 31),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1e-5", 1e-5),
        ("off", "off"),
        ("2026-01-02", "2026-01-02"),
    ],
)
def test_a_value_is_what_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}")["a"]
    assert (type(read), read) == (type(value), value)


def test_a_list_of_millions_is_refused_at_the_first_value_that_is_too_many() -> None:
    """It was read for minutes, in 2 GB of memory, and counted then."""
    began = time.process_time()
    with pytest.raises(yaml.YAMLError, match=f"more than {MOST_NODES} values"):
        parse_yaml("x: [" + "1," * 2_000_000 + "1]")
    assert time.process_time() - began < 30


@pytest.mark.parametrize("digits", [1001, 5_000, 100_000])
def test_a_number_of_too_many_digits_is_refused_in_words(digits: int, tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("x: " + "9" * digits)
    with pytest.raises(ConfigurationError, match="a number of more than 1000 digits"):
        read_yaml(tmp_path / "agent.yaml")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "agent.yaml").open("wb") as file:
        file.truncate(40 << 30)
    with pytest.raises(ConfigurationError, match="has more than 16777216 bytes"):
        read_yaml(tmp_path / "agent.yaml")
