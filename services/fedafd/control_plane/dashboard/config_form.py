"""Fields of the configuration's form: made of the schema, read back into values, checked with each fault at its key.

Pure. A field that is not sent keeps its value, so that what cannot change need not be sent. A block that may be left
out is a field, too: once it is switched on its keys stand below it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fedafd.domain.config import FederationConfig
from fedafd.domain.config.reading import problem_words
from fedafd.domain.config.reference import Key, keys_of
from fedafd.domain.hashing import sha256_of

__all__ = ["PREFIX", "Checked", "Field", "checked", "sections", "values_of"]

PREFIX = "key."
"""Of the names of fields, beside which a form has others."""
_NULL, _ON = "null", "on"
_MOST_CHARACTERS = 5000
_KEYS = {key.path: key for key in keys_of(FederationConfig, blocks=True)}
_ABSENT = object()


@dataclass(frozen=True)
class Field:
    """One key as a form shows it."""

    key: Key
    shown: str
    """What stands in it."""
    problem: str
    fixed: bool

    @property
    def options(self) -> list[str]:
        """What it is chosen from; empty for a field that is written in."""
        choices = (_ON,) if self.key.block else self.key.choices
        return [*choices, *([_NULL] if self.key.nullable else [])] if choices else []


@dataclass
class Checked:
    """Values that were written, and by key what is wrong with them; `` for the whole."""

    values: dict[str, Any]
    problems: dict[str, str] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Names these values, so that only what was shown is saved."""
        return sha256_of(json.dumps(self.values, sort_keys=True).encode())


def sections(form: Checked, fixed: Iterable[str]) -> dict[str, list[Field]]:
    """Fields by the block that they stand in, of all keys that the configuration has, or would have."""
    blocks: dict[str, list[Field]] = {}
    for path, value in values_of(form.values).items():
        key = _KEYS[path]
        shown = form.written.get(path, _shown(value, key))
        block = path.split(".")[0] if "." in path else "general"
        entry = Field(key, shown, form.problems.get(path, ""), _is_below(path, fixed))
        blocks.setdefault(block, []).append(entry)
    return {"general": blocks.pop("general", []), **blocks}


def checked(config: Mapping[str, Any], sent: Callable[[str], str | None], fixed: Iterable[str]) -> Checked:
    """What was sent on top of what runs."""
    values, written, problems = deepcopy(dict(config)), {}, {}
    for path, key in _KEYS.items():  # a block that is switched on here has its keys after it
        if (old := _value(values, path)) is _ABSENT:
            continue
        text = None if _is_below(path, fixed) else sent(PREFIX + path)
        if text is None or text == _shown(old, key):
            continue
        written[path] = text
        if len(text) > _MOST_CHARACTERS:
            problems[path] = f"longer than {_MOST_CHARACTERS} characters"
            continue
        _put(values, path, _read(text, key))
    try:
        values = FederationConfig.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        for item in error.errors(include_url=False):
            path = ".".join(map(str, item["loc"]))
            problems.setdefault(_nearest(path), problem_words(item))
    return Checked(values, problems, written)


def values_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Each key's value by its path; without those of a block that is left out, which is None, and else `on`."""
    values = {path: _value(config, path) for path in _KEYS}
    return {path: value for path, value in values.items() if value is not _ABSENT}


def _value(config: Mapping[str, Any], path: str) -> Any:
    *blocks, name = path.split(".")
    inside: Any = config
    for block in blocks:
        inside = inside.get(block) if isinstance(inside, Mapping) else None
    if not isinstance(inside, Mapping) or name not in inside:
        return _ABSENT
    return _ON if _KEYS[path].block and isinstance(inside[name], Mapping) else inside[name]


def _shown(value: Any, key: Key) -> str:
    if value is None:
        return _NULL if key.choices or key.is_text or key.block else ""
    return value if isinstance(value, str) else json.dumps(value)


def _read(text: str, key: Key) -> Any:
    """A value as JSON has it; text that is not JSON stays text, which is then checked, and refused."""
    if key.nullable and (text == _NULL or (not text and not key.is_text)):
        return None
    if key.block is not None and text == _ON:
        return key.block.model_construct().model_dump(mode="json")
    if key.is_text:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *blocks, name = path.split(".")
    for block in blocks:
        values = values[block]
    values[name] = value


def _is_below(path: str, fixed: Iterable[str]) -> bool:
    return any(path == fixed_path or path.startswith(f"{fixed_path}.") for fixed_path in fixed)


def _nearest(path: str) -> str:
    """The key of a fault, which may lie within its value; `` for one of the whole, or of several keys."""
    while path and path not in _KEYS:
        path = path.rpartition(".")[0]
    return path
