"""The generated reference: every key has a meaning and says what it takes; a key without a meaning stops the tool."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from tools.write_reference import PROCESSES, configuration, settings, variables_of

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


class Process(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="FEDAFD_TOY_")

    token: SecretStr = Field(description="A token.")
    wait_seconds: float = Field(2.5, gt=0, description="A wait.")
    limit_bytes: int = Field(2 * 2**30, ge=0, description="A limit.")
    names: str = Field("", description="Names.")
    options: dict[str, int] | None = Field(None, description="Options.")
    inner: Inner | None = Field(None, description="A group.")


def test_a_variable_is_named_as_it_is_set_with_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_reference, "PROCESSES", {"Toy": Process})
    table = settings().partition("## Toy")[2].splitlines()
    assert table[4:] == [
        "| `FEDAFD_TOY_TOKEN` | needed | secret text | A token. |",
        "| `FEDAFD_TOY_WAIT_SECONDS` | `2.5` | number of seconds above 0 | A wait. |",
        "| `FEDAFD_TOY_LIMIT_BYTES` | `2147483648` (2 GiB) | whole number of bytes from 0 | A limit. |",
        "| `FEDAFD_TOY_NAMES` | unset | text | Names. |",
        "| `FEDAFD_TOY_OPTIONS` | unset | JSON object | Options. |",
        "| `FEDAFD_TOY_INNER__SIZE` | `3` | whole number from 2 | A size. |",
    ]


@pytest.mark.parametrize("process", PROCESSES)
def test_every_variable_says_what_it_takes(process: str) -> None:
    variables = list(variables_of(PROCESSES[process]))
    assert variables
    assert [name for name, key in variables if not key.meaning or not key.allowed] == []


def test_a_setting_without_a_meaning_stops_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="FEDAFD_TOY_")

        unspoken: int = 1

    monkeypatch.setattr(write_reference, "PROCESSES", {"Toy": Silent})
    with pytest.raises(ValueError, match=r"FEDAFD_TOY_UNSPOKEN$"):
        settings()
