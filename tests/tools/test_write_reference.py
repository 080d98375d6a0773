"""The generated reference: every key has a meaning and says what it takes; a key without a meaning stops the tool."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field
from tools.write_reference import configuration

from fedafd.domain.config import AgentConfig, FederationConfig
from fedafd.domain.config.reference import Key, keys_of
from tools import write_reference


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    size: Annotated[int, Field(ge=2)] = Field(3, description="A size.")


class Outer(BaseModel):
    colour: Colour = Field(Colour.RED, description="A colour.")
    share: float | None = Field(None, gt=0, le=1, description="A share.")
    mode: Literal["a", "b", "c"] = Field(description="A mode.")
    inner: Inner = Inner(size=7)
    other: Inner | None = None


def test_a_row_tells_default_choices_range_and_meaning() -> None:
    assert list(keys_of(Outer)) == [
        Key("colour", "`red`", "`red` or `blue`", "A colour.", ("red", "blue"), is_text=True),
        Key("share", "`null`", "number above 0 to 1, or null", "A share.", nullable=True),
        Key("mode", "needed", "`a`, `b` or `c`", "A mode.", ("a", "b", "c"), is_text=True),
        # The block's own default, not its class's.
        Key("inner.size", "`7`", "whole number from 2", "A size."),
        Key("other.size", "`3`", "whole number from 2", "A size."),
    ]


@pytest.mark.parametrize("model", [FederationConfig, AgentConfig])
def test_every_key_has_a_meaning_and_says_what_it_takes(model: type[BaseModel]) -> None:
    keys = list(keys_of(model))
    assert keys
    assert [key.path for key in keys if not key.meaning or not key.allowed] == []


def test_a_key_without_a_meaning_stops_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(BaseModel):
        spoken: int = Field(1, description="Says something.")
        unspoken: int = 1

    monkeypatch.setattr(write_reference, "AgentConfig", Silent)
    with pytest.raises(ValueError, match=r"agent\.yaml: unspoken$"):
        configuration()
