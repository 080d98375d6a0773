"""Configuration: what is wrong is refused with the key's path and what is allowed; what is right survives its JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fedafd.domain.config import (
    AgentConfig,
    FederationConfig,
    parse_agent_config,
    parse_federation_config,
    read_agent_config,
    read_federation_config,
    stored_federation_config,
)
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.presets import PRESETS
from fedafd.domain.strategies import strategy_names

ENCODER = {"architecture": "resnet"}
FEDERATION: dict[str, Any] = {"name": "trial", "image_encoder": ENCODER, "text_encoder": {"architecture": "bigru"}}
AGENT: dict[str, Any] = {
    "aggregator": "host:7443",
    "kind": "image",
    "data": {"adapter": "shapes", "partition": {}},
    "image_encoder": ENCODER,
    "text_encoder": ENCODER,
    "task": {"name": "classification"},
    "direct_uploads": {"url": "https://store.example.org"},
    "share": {"metrics": False},
    "privacy": {"dp": {"epsilon": 8, "delta": 1e-6, "samples": 5000}},
}


def blocks(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every level of a configuration: its path, its model."""
    yield path, model
    for name, field in model.model_fields.items():
        for annotation in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from blocks(annotation, (*path, name))


def spoiled(values: dict[str, Any], path: tuple[str, ...], key: str, value: object) -> dict[str, Any]:
    """A copy with one key set at `path`."""
    made: dict[str, Any] = json.loads(json.dumps(values))
    place = made
    for part in path:
        place = place.setdefault(part, {})
    place[key] = value
    return made


LEVELS = [
    *(pytest.param(FEDERATION, parse_federation_config, path, model) for path, model in blocks(FederationConfig)),
    *(pytest.param(AGENT, parse_agent_config, path, model) for path, model in blocks(AgentConfig)),
]


@pytest.mark.parametrize(("values", "parse", "path", "model"), LEVELS)
def test_an_unknown_key_at_every_level_is_refused_with_what_is_allowed(
    values: dict[str, Any], parse: Any, path: tuple[str, ...], model: type[BaseModel]
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(spoiled(values, path, "leerning_rate", 1), "the.yaml")
    allowed = ", ".join(sorted(model.model_fields))
    place = ".".join((*path, "leerning_rate"))
    assert f"the.yaml: {place}: unknown key; allowed here: {allowed}" in str(raised.value)


@pytest.mark.parametrize(("values", "parse", "path", "model"), LEVELS)
def test_a_wrong_type_of_every_key_is_refused_with_its_path(
    values: dict[str, Any], parse: Any, path: tuple[str, ...], model: type[BaseModel]
) -> None:
    parse(values)
    for key in model.model_fields:
        with pytest.raises(ConfigurationError) as raised:
            parse(spoiled(values, path, key, [["wrong"], "type"]), "the.yaml")
        place = ".".join((*path, key))
        assert f"the.yaml: {place}" in str(raised.value) or f"; {place}" in str(raised.value)
        assert "wrong" in str(raised.value) or "must be" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "Trial 1", "name: String should match pattern"),
        ("preset", "papers", "preset: Input should be 'default', 'small', 'pretrained' or 'paper'; found 'papers'"),
        ("strategy", "fedprox", "strategy: strategy 'fedprox' is not known; installed: .*fedafd"),
        ("seed", -1, "seed: Input should be greater than or equal to 0; found -1"),
        ("seed", 2**63, "seed: Input should be less than"),
        ("embedding_dim", 7, "embedding_dim: Input should be greater than or equal to 8; found 7"),
        ("embedding_dim", 3.5, "embedding_dim: Input should be a valid integer"),
        ("server.learning_rate", 0, "server.learning_rate: Input should be greater than 0; found 0"),
        ("server.learning_rate", "fast", "server.learning_rate: Input should be a valid number.*found 'fast'"),
        ("server.learning_rate", float("nan"), "server.learning_rate: Input should be a finite number; found nan"),
        ("server.optimizer", "lion", "server.optimizer: Input should be 'adamp', 'adamw', 'adam' or 'sgd'"),
        ("server", 5, r"server: must be a block of keys \(accumulate, augment, autocast, batch_size.*\); found 5"),
        ("client.image.batch_size", 1, "client.image.batch_size: Input should be greater than or equal to 2; found 1"),
        ("alignment.mode", "maximal", "alignment.mode: Input should be 'off', 'adversarial'"),
        ("fusion.mode", None, "fusion.mode: Input should be 'off', 'vector', 'tokens'"),
        ("distillation.temperature", 0.0, "distillation.temperature: Input should be greater than 0"),
        ("quorum.min_clients", 0, "quorum.min_clients: Input should be greater than or equal to 1"),
        ("wire_dtype", "float64", "wire_dtype: Input should be 'float16', 'float32' or 'int8'"),
        ("round_deadline_seconds", 0, "round_deadline_seconds: Input should be greater than 0"),
        ("image_encoder.options", {"x": float("inf")}, "image_encoder.options.x"),
        ("averaging", "weights", "averaging: weights needs client.vocabulary: public"),
    ],
)
def test_a_bad_value_is_refused_with_its_path_and_what_is_allowed(path: str, value: object, message: str) -> None:
    *above, key = path.split(".")
    values = dict(FEDERATION)
    place = values
    for part in above:
        place[part] = dict(place.get(part, {}))
        place = place[part]
    place[key] = value
    with pytest.raises(ConfigurationError, match=f"federation.yaml: .*{message}"):
        parse_federation_config(values, "federation.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregator": "host"}, "aggregator: must be host:port"),
        ({"aggregator": "http://host:7443"}, "aggregator: must be host:port"),
        ({"aggregator": "127.0.0.1:99999"}, "aggregator: port must be 1 to 65535; found 99999"),
        ({"aggregator": "host:0"}, "aggregator: port must be 1 to 65535; found 0"),
        ({"kind": "video"}, "kind: Input should be 'image', 'text' or 'pair'; found 'video'"),
        ({"data": {}}, "data.adapter: missing, but needed"),
        ({"data": {"adapter": "shapes", "partition": {"num_clients": 3, "index": 3}}}, "data.partition: index is 3"),
        ({"data": {"adapter": "shapes", "partition": {"alpha": 0}}}, "data.partition.alpha: Input should be greater"),
        ({"device": "gpu"}, "device: String should match pattern"),
        ({"threads": 0}, "threads: Input should be greater than or equal to 1"),
        ({"metrics_port": 0}, "metrics_port: Input should be greater than or equal to 1"),
        ({"metrics_port": 70000}, "metrics_port: Input should be less than or equal to 65535"),
        ({"share": {"private_data": True}}, "share.private_data: unknown key; allowed here: metrics"),
    ],
)
def test_a_bad_agent_yaml_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"agent.yaml: {message}"):
        parse_agent_config(AGENT | changes, "agent.yaml")


@pytest.mark.parametrize("address", ["host:7443", "10.0.0.1:1", "[::1]:7443", "a.b-c.example.org:65535", "dns:///h:1"])
def test_good_addresses_pass(address: str) -> None:
    assert parse_agent_config(AGENT | {"aggregator": address}).aggregator == address


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_federation_config({"seed": -1, "rounds": 3, "server": {"passes": 0}}, "f.yaml")
    for part in ("name: missing, but needed", "seed:", "rounds: unknown key", "server.passes:"):
        assert part in str(raised.value)


def test_a_long_wrong_value_is_not_repeated_whole() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_federation_config(FEDERATION | {"seed": "x" * 10_000})
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"f.yaml: expected keys and values, found NoneType"),
        (b"- a\n- b\n", r"f.yaml: expected keys and values, found list"),
        (
            b"a: [1\nb: 2",
            r"f.yaml: not valid YAML: expected ',' or ']', but .*, line 2, column 2, while .* of line 1",
        ),
        (b"name: trial\nseed: 1\nseed: 2\n", r"f.yaml: not valid YAML: key 'seed' occurs twice, line 3, column 1$"),
        (b"name: \x00\n", r"f.yaml: not valid YAML: character 7 is '\\x00'"),
        (b"name: caf\xe9\n", r"f.yaml: not UTF-8"),
        (b"name: trial\n1: 2\n", r"f.yaml: 1: "),
        (
            b"name: !!python/object/apply:os.system ['true']\n",
            r"f.yaml: not valid YAML: could not determine a constructor",
        ),
        (b"[" * 5000, r"f.yaml: not valid YAML"),
        (b"name: trial\n--- \nname: second\n", r"f.yaml: not valid YAML: expected a single document"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_federation_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"nowhere.yaml: no such file; `fedafd agent init` writes one, --config or"
    ):
        read_agent_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match=r"nowhere.yaml: cannot be read: No such file"):
        read_federation_config(tmp_path / "nowhere.yaml")


def test_words_and_numbers_in_yaml_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "name: on\nserver: {learning_rate: 1e-5, autocast: off, augment: false}\nalignment: {mode: off}\n"
        "image_encoder: {architecture: resnet, options: {a: 1e-3, b: 2020-01-01, c: yes, d: 0.5, e: 7, f: -.5e+2}}\n"
    )
    config = read_federation_config(path)
    assert (config.name, config.server.learning_rate, config.server.autocast) == ("on", 1e-5, "off")
    assert not config.server.augment
    assert config.alignment.mode == "off"
    assert config.image_encoder.options == {"a": 1e-3, "b": "2020-01-01", "c": "yes", "d": 0.5, "e": 7, "f": -50.0}


def test_options_of_a_presets_encoder_do_not_go_to_another_architecture() -> None:
    other = parse_federation_config(
        {"name": "f", "preset": "small", "image_encoder": {"architecture": "plain-convnet", "options": {"widths": [8]}}}
    )
    assert other.image_encoder.options == {"widths": [8]}
    same = parse_federation_config(
        {"name": "f", "preset": "small", "image_encoder": {"architecture": "resnet", "options": {"depths": [1]}}}
    )
    assert same.image_encoder.options["depths"] == [1]
    assert "hidden_sizes" in same.image_encoder.options
    assert parse_federation_config(json.loads(other.canonical_json())) == other


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("strategy", strategy_names())
def test_every_preset_and_strategy_parses_and_the_file_wins(preset: str, strategy: str) -> None:
    values = {"name": "trial", "preset": preset, "strategy": strategy}
    config = parse_federation_config(values)
    assert parse_federation_config(json.loads(config.canonical_json())) == config
    own = parse_federation_config(values | {"client": {"local_epochs": 77}})
    assert own.client.local_epochs == 77
    assert own.client.image == config.client.image


# -- round trip ------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1_000_000, 1_000_000)  # what an encoder's option may count
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
positive = st.floats(1e-300, 1e300)
federations = st.fixed_dictionaries(
    {"name": st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")},
    optional={
        "preset": st.sampled_from(sorted(PRESETS)),
        "strategy": st.sampled_from(["fedafd", "creamfl", "fedmd", "local", "probe"]),
        "seed": st.integers(0, 2**63 - 1),
        "embedding_dim": st.integers(8, 4096),
        "image_encoder": st.fixed_dictionaries(
            {"architecture": st.text()},
            optional={
                "options": st.dictionaries(st.text(), json_values, max_size=3),
                "image_size": st.integers(8, 1024),
            },
        ),
        "server": st.fixed_dictionaries(
            {}, optional={"learning_rate": positive, "passes": st.integers(1, 100), "augment": st.booleans()}
        ),
        "alignment": st.fixed_dictionaries({}, optional={"max_gradient_share": st.none() | positive}),
        "round_deadline_seconds": st.none() | st.floats(1e-300, 1e9),
        "wire_dtype": st.sampled_from(["float16", "float32", "int8"]),
    },
)


@settings(deadline=None, max_examples=50)
@given(values=federations)
def test_canonical_json_round_trips_and_is_canonical(values: dict[str, Any]) -> None:
    config = parse_federation_config(values)
    text = config.canonical_json()
    back = parse_federation_config(json.loads(text))
    assert back == config
    assert back.canonical_json() == text
    assert parse_federation_config(dict(reversed(values.items()))).canonical_json() == text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@settings(deadline=None, max_examples=100)
@given(values=st.dictionaries(st.sampled_from([*FederationConfig.model_fields, "x"]), json_values, max_size=5))
def test_whatever_comes_it_parses_or_is_refused_and_nothing_else(values: dict[str, Any]) -> None:
    for parse in (parse_federation_config, parse_agent_config):
        try:
            parse(values)
        except ConfigurationError:
            continue


def test_a_stored_configuration_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = FederationConfig(name="once", seed=7, strategy="creamfl").model_dump(mode="json")
    first = stored_federation_config(values)
    monkeypatch.setattr(FederationConfig, "model_validate_json", None)
    assert stored_federation_config(dict(reversed(values.items()))) is first
    assert first == FederationConfig.model_validate(values)


@pytest.mark.parametrize("read", [read_agent_config, read_federation_config])
def test_a_pipe_is_refused_without_waiting(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "agent.yaml")
    with pytest.raises(ConfigurationError, match=r"agent\.yaml: a pipe, socket or device; give a regular file"):
        read(tmp_path / "agent.yaml")


@pytest.mark.parametrize(
    ("values", "cap"),
    [
        ({}, "auto"),
        ({"preset": "small"}, "auto"),
        ({"distillation": {"weight_cap": "strict"}}, "strict"),
        ({"preset": "paper"}, None),
        ({"strategy": "creamfl"}, None),
    ],
    ids=str,
)
def test_weights_are_capped_but_where_a_method_is_kept_to_the_letter(values: dict[str, Any], cap: str | None) -> None:
    config = parse_federation_config({"name": "trial", **values})
    assert config.distillation.weight_cap == cap
    assert config.distillation.caps_weights is (cap is not None)


@pytest.mark.parametrize("cap", [0, -0.1, 1.5, "half", float("nan")])
def test_a_cap_that_is_no_share_is_refused_with_its_path(cap: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"distillation\.weight_cap"):
        parse_federation_config({"name": "trial", "distillation": {"weight_cap": cap}})


def test_sites_are_told_nothing_of_how_the_server_guards_its_ensemble() -> None:
    config = parse_federation_config({"name": "trial", "distillation": {"weight_cap": 0.3, "leave_out_copies": False}})
    assert "weight_cap" not in config.sites_json()
    assert "leave_out_copies" not in config.sites_json()
    assert parse_federation_config(json.loads(config.canonical_json())) == config


def test_an_agent_without_its_file_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="agent.yaml: no such file; `fedafd agent init` writes one"):
        read_agent_config(tmp_path / "agent.yaml")
