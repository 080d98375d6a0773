"""The client's types say what the control plane's OpenAPI document says."""

from __future__ import annotations

import json
from typing import Any, get_type_hints, is_typeddict

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
        may_be_null = any(part.get("type") == "null" for part in sent.get("anyOf", []))
        assert (type(None) in getattr(hints[field], "__args__", ())) == may_be_null, f"{name}.{field}"


def test_a_pulled_model_has_what_both_kinds_of_models_have(schemas: dict[str, Any]) -> None:
    fields = [set(schemas[name]["properties"]) for name in ("ModelVersionDetails", "PersonalizedModelDetails")]
    assert set(get_type_hints(answers.PulledModel)) == fields[0] & fields[1]


def test_all_exported_types_are_answers() -> None:
    assert all(is_typeddict(getattr(answers, name)) for name in answers.__all__)
