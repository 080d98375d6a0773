"""What each key of a configuration means and allows, read from the models: for the reference page and for forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

__all__ = ["Key", "allowed", "keys_of"]


class Key(NamedTuple):
    """A key, its default, what is allowed, and what it means."""

    path: str
    default: str
    allowed: str
    meaning: str
    choices: tuple[str, ...] = ()
    """All values there are, but null; empty where they cannot be listed."""
    is_text: bool = False
    """Whether a value is text as it stands; others are JSON."""
    nullable: bool = False
    block: type[BaseModel] | None = None
    """Of a block that may be left out: what it is then made of, once it is not."""


def keys_of(
    model: type[BaseModel], prefix: str = "", defaults: BaseModel | None = None, *, blocks: bool = False
) -> Iterator[Key]:
    """All keys below a block, depth first. `defaults`: the block as it is where a file leaves it out.

    With `blocks` a block that may be null is a key, too, before those in it.
    """
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)
        block = next((kind for kind in _alternatives(field.annotation) if _is_block(kind)), None)
        if block is not None:
            below = default if isinstance(default, BaseModel) else None
            if blocks and type(None) in _alternatives(field.annotation):
                about = (_shown_default(default), "a block, or null", field.description or "")
                yield Key(prefix + name, *about, nullable=True, block=block)
            yield from keys_of(block, f"{prefix}{name}.", below, blocks=blocks)
            continue
        kinds = [_bare(kind) for kind in _alternatives(field.annotation)]
        choices = tuple(choice for kind in kinds for choice in _choices(kind))
        is_text = any(kind in (str, Path) or (_choices(kind) and kind is not bool) for kind in kinds)
        about = (_shown_default(default), allowed(field), field.description or "")
        yield Key(prefix + name, *about, choices, is_text, type(None) in kinds)


def allowed(field: FieldInfo) -> str:
    """The choices or the type of a value, its range, and whether null is allowed."""
    kinds = _alternatives(field.annotation)
    marks = [*field.metadata, *(mark for kind in kinds for mark in getattr(kind, "__metadata__", ()))]
    marks = [part for mark in marks for part in getattr(mark, "metadata", (mark,))]
    words = list(dict.fromkeys(word for kind in kinds for word in _kind_words(kind)))
    bounds = [
        f"{_BOUNDS[name]} {_number(getattr(mark, name))}" for mark in marks for name in _BOUNDS if hasattr(mark, name)
    ]
    null = ", or null" if type(None) in kinds else ""
    return " ".join([", ".join(words[:-1]) + " or " * (len(words) > 1) + words[-1], *bounds]) + null


_BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
_WORDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret text",
}


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _bare(kind: Any) -> Any:
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _choices(kind: Any) -> list[str]:
    """All values of a kind; none where they cannot be listed."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [str(member.value) for member in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _kind_words(kind: Any) -> list[str]:
    kind = _bare(kind)
    if kind is not bool and (choices := _choices(kind)):
        return [f"`{choice}`" for choice in choices]
    if get_origin(kind) is tuple and ... in get_args(kind):
        return ["list of texts"]
    if get_origin(kind) is tuple:
        return [f"{len(get_args(kind))} numbers"]
    if get_origin(kind) is dict:
        return ["keys and values"]
    return [] if kind is type(None) else [_WORDS[kind]]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown_default(value: Any) -> str:
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    return f"`{value}`" if isinstance(value, str | Path) else f"`{json.dumps(value)}`"
