"""Any message of the protos, made from its descriptor, so that a new field is fuzzed without a line here.

What hypothesis draws is a recipe: plain values, and in places `Known(index)`, which stands for something that the
server answered or that lies in its database. The recipe stays the same however often it is used; what is known grows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

__all__ = ["Knowledge", "build", "changed", "recipes"]

Kind: TypeAlias = Any
Field: TypeAlias = Any
"""Descriptors of a message and of a field: protobuf's two implementations share no type."""
_DEEPEST = 2
_F = FieldDescriptor
_BITS = {
    _F.TYPE_INT32: (32, True),
    _F.TYPE_SINT32: (32, True),
    _F.TYPE_SFIXED32: (32, True),
    _F.TYPE_UINT32: (32, False),
    _F.TYPE_FIXED32: (32, False),
    _F.TYPE_INT64: (64, True),
    _F.TYPE_SINT64: (64, True),
    _F.TYPE_SFIXED64: (64, True),
    _F.TYPE_UINT64: (64, False),
    _F.TYPE_FIXED64: (64, False),
}
_HARSH_TEXTS = (
    "\0",
    "\x1b[2J",
    "a" * 32,
    "0" * 64,
    "../../../etc/passwd",
    "%s",
    "x" * 5000,
    "'; --",
    "\U0001f4a5",
    "1" * 400,
)


@dataclass(frozen=True)
class Known:
    """The so-many-th newest of what is known for the field; where nothing is known the field stays unset."""

    index: int


@dataclass(frozen=True)
class Many:
    """The same element so many times."""

    element: Any
    count: int


@dataclass
class Knowledge:
    """Values by the field's name and type, in the order in which they were heard."""

    values: dict[tuple[str, int], list[Any]] = field(default_factory=lambda: defaultdict(list))

    def hear(self, message: Message) -> None:
        """Keep every value of a message, those within it too."""
        for descriptor, value in message.ListFields():
            entries = value if descriptor.is_repeated and not _is_map(descriptor) else [value]
            for entry in [] if _is_map(descriptor) else entries:
                if descriptor.message_type is not None:
                    self.hear(entry)
                else:
                    self.keep(descriptor.name, descriptor.type, entry)

    def keep(self, name: str, kind: int, value: Any) -> None:
        """Keep one value under a field's name."""
        found = self.values[_singular(name), kind]
        if value in found:
            found.remove(value)
        found.append(value)

    def find(self, descriptor: Field, index: int) -> list[Any]:
        """The value, or none: of the field's own name, or of the last words of it, as `revision` for known_revision."""
        words = _singular(descriptor.name).split("_")
        for start in range(len(words)):
            if found := self.values.get(("_".join(words[start:]), descriptor.type)):
                return [found[-1 - index % len(found)]]
        return []


def recipes(descriptor: Kind, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Any values for any of the fields."""
    fields = {
        each.name: _values(each, depth) for each in descriptor.fields if depth < _DEEPEST or not each.message_type
    }
    return st.fixed_dictionaries({}, optional=fields)


def build(descriptor: Kind, recipe: Mapping[str, Any], knowledge: Knowledge) -> Message:
    """The message of a recipe."""
    return changed(GetMessageClass(descriptor)(), recipe, knowledge)


def changed(message: Message, recipe: Mapping[str, Any], knowledge: Knowledge) -> Message:
    """The message with the fields of a recipe in place of its own."""
    for name, value in recipe.items():
        descriptor = message.DESCRIPTOR.fields_by_name[name]
        message.ClearField(name)
        if _is_map(descriptor):
            _fill_map(getattr(message, name), descriptor, value, knowledge)
        elif descriptor.is_repeated:
            getattr(message, name).extend(_elements(descriptor, value, knowledge))
        elif descriptor.message_type is not None:
            getattr(message, name).CopyFrom(build(descriptor.message_type, value, knowledge))
        else:
            for known in _plain(descriptor, value, knowledge):
                setattr(message, name, known)
    return message


def _elements(descriptor: Field, value: Any, knowledge: Knowledge) -> Iterator[Any]:
    entries = [value.element] * value.count if isinstance(value, Many) else value
    for entry in entries:
        if descriptor.message_type is not None:
            yield build(descriptor.message_type, entry, knowledge)
        else:
            yield from _plain(descriptor, entry, knowledge)


def _plain(descriptor: Field, value: Any, knowledge: Knowledge) -> list[Any]:
    return knowledge.find(descriptor, value.index) if isinstance(value, Known) else [value]


def _fill_map(entries: Any, descriptor: Field, value: Mapping[Any, Any], knowledge: Knowledge) -> None:
    kind = descriptor.message_type.fields_by_name["value"]
    for key, entry in value.items():
        if kind.message_type is not None:
            entries[key].CopyFrom(build(kind.message_type, entry, knowledge))
        else:
            entries[key] = entry


def _values(descriptor: Field, depth: int) -> st.SearchStrategy[Any]:
    if _is_map(descriptor):
        key, value = (descriptor.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.dictionaries(_invented(key, depth), _invented(value, depth + 1), max_size=3)
    if not descriptor.is_repeated:
        return _one(descriptor, depth)
    one = _one(descriptor, depth)
    return st.lists(one, max_size=4) | st.builds(Many, one, st.sampled_from([17, 5000]))


def _one(descriptor: Field, depth: int) -> st.SearchStrategy[Any]:
    if descriptor.message_type is not None or descriptor.type in (_F.TYPE_BOOL, _F.TYPE_ENUM, _F.TYPE_DOUBLE):
        return _invented(descriptor, depth)
    known = st.builds(Known, st.sampled_from([0, 0, 0, 1, 2, 3, 7]))
    return st.one_of(known, known, _invented(descriptor, depth))


def _invented(descriptor: Field, depth: int) -> st.SearchStrategy[Any]:
    kind = descriptor.type
    if descriptor.message_type is not None:
        return recipes(descriptor.message_type, depth + 1)
    if kind in _BITS:
        return _numbers(*_BITS[kind])
    if kind == _F.TYPE_BOOL:
        return st.booleans()
    if kind == _F.TYPE_ENUM:
        numbers = [value.number for value in descriptor.enum_type.values]
        return st.sampled_from(numbers) | st.sampled_from([-1, 99, 2**31 - 1, -(2**31)])
    if kind in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return st.floats(0, 1) | st.floats(width=64 if kind == _F.TYPE_DOUBLE else 32)
    if kind == _F.TYPE_BYTES:
        return st.binary(max_size=80) | st.sampled_from([b"\0" * 70_000, b"\xff" * 16])
    return st.text(max_size=20) | st.sampled_from(_HARSH_TEXTS)


def _numbers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    edges = [each for each in (least, least + 1, -1, 0, 1, 2**31, 65536, most - 1, most) if least <= each <= most]
    return st.sampled_from(edges) | st.integers(0, 9) | st.integers(least, most)


def _is_map(descriptor: Field) -> bool:
    return descriptor.message_type is not None and bool(descriptor.message_type.GetOptions().map_entry)


def _singular(name: str) -> str:
    return name.removesuffix("s")
