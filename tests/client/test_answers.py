"""The client's types say what the control plane's OpenAPI document says."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from tests.servers import ROOT

from fedafd.client import answers

NAMES = [name for name in answers.__all__ if name != "PulledModel"]


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["components"]["schemas"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_has_the_fields_that_are_sent(name: str, schemas: dict[str, Any]) -> None:
    hints = get_type_hints(getattr(answers, name))
    assert sorted(hints) == sorted(schemas[name]["properties"])
    for field, sent in schemas[name]["properties"].items():
        assert is_told_by(hints[field], sent, schemas), f"{name}.{field}: {hints[field]} for {sent}"


PLAIN = {"string": str, "integer": int, "number": float, "boolean": bool}


def is_told_by(hint: Any, sent: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Whether a value of the schema `sent` is of the type `hint`; an enumeration may be a plain text of ours."""
    if "anyOf" in sent:
        kinds = [part for part in sent["anyOf"] if part.get("type") != "null"]
        optional = len(kinds) < len(sent["anyOf"])
        if (type(None) in get_args(hint)) != optional or len(kinds) != 1:
            return False
        (rest,) = [each for each in get_args(hint) if each is not type(None)]
        return is_told_by(rest, kinds[0], schemas)
    if "$ref" in sent:
        name = sent["$ref"].rpartition("/")[2]
        named = schemas[name]
        if "enum" in named:
            values = {str(each) for each in hint} if isinstance(hint, type) and issubclass(hint, Enum) else None
            return hint is str or values == set(named["enum"])
        return getattr(hint, "__name__", "") == name or get_origin(hint) is dict
    if sent.get("type") == "array":
        return get_origin(hint) is list and is_told_by(get_args(hint)[0], sent["items"], schemas)
    if sent.get("type") == "object":
        value = sent.get("additionalProperties", True)
        told = get_args(hint)[1]
        return get_origin(hint) is dict and (told is Any if value is True else is_told_by(told, value, schemas))
    return bool(hint is PLAIN[sent["type"]])


def test_a_pulled_model_has_what_both_kinds_of_models_have(schemas: dict[str, Any]) -> None:
    fields = [set(schemas[name]["properties"]) for name in ("ModelVersionDetails", "PersonalizedModelDetails")]
    assert set(get_type_hints(answers.PulledModel)) == fields[0] & fields[1]


def test_all_answers_are_exported_and_nothing_else() -> None:
    assert sorted(answers.__all__) == sorted(name for name, each in vars(answers).items() if is_typeddict(each))
