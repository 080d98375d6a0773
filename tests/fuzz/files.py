"""Files that are nearly right: bytes cut, turned and repeated; safetensors whose headers say otherwise."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

__all__ = ["bytes_like", "json_values", "tensors_like"]

_DEEP = "[" * 20_000
_HUGE = 10**400
_DTYPES = ["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", 5, None]


def json_values() -> st.SearchStrategy[Any]:
    """Values that JSON, and what Python takes for it, can hold, the odd ones among them more often."""
    odd: st.SearchStrategy[Any] = st.sampled_from(
        [None, True, -1, 0, 2**63, _HUGE, 1e308, float("inf"), float("nan"), "", "\0", "x" * 3000, [], {}]
    )
    return odd | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )


def bytes_like(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with a few places cut out, written over, or repeated."""
    cuts = st.tuples(st.integers(0, len(content)), st.integers(0, 40), st.binary(max_size=12), st.booleans())

    def cut(changes: list[tuple[int, int, bytes, bool]]) -> bytes:
        made = content
        for at, length, new, ends in changes:
            made = made[:at] + new + (b"" if ends and length == 40 else made[at + length :])
        return made

    return st.lists(cuts, min_size=1, max_size=3).map(cut)


def tensors_like(blob: bytes) -> st.SearchStrategy[bytes]:
    """A file of safetensors with another header, or other bytes."""
    (length,) = struct.unpack("<Q", blob[:8])
    header, body = json.loads(blob[8 : 8 + length]), blob[8 + length :]
    names = sorted(name for name in header if name != "__metadata__")
    said = header.get("__metadata__") or {}
    values = json_values()
    shapes = values | st.lists(st.sampled_from([0, 1, 8, -1, 2**31, 2**62, _HUGE, 0.5, "8"]), max_size=4)
    change = st.one_of(
        st.tuples(st.just("drop"), st.sampled_from([*names, "__metadata__"]), st.none()),
        st.tuples(st.just("name"), st.sampled_from(names), st.text(max_size=12) | st.sampled_from(names)),
        st.tuples(st.just("dtype"), st.sampled_from(names), st.sampled_from(_DTYPES)),
        st.tuples(st.just("shape"), st.sampled_from(names), shapes),
        st.tuples(st.just("data_offsets"), st.sampled_from(names), shapes),
        st.tuples(st.just("whole"), st.sampled_from([*names, "__metadata__"]), values),
    )
    told = st.tuples(st.just("said"), st.sampled_from([*said, "more"]), _texts(said) | _texts(said) | values)

    def make(changes: list[tuple[str, str, Any]], more: bytes, less: int) -> bytes:
        made = {key: dict(value) for key, value in header.items()}
        for what, name, value in changes:
            made = _changed(made, what, name, value)
        text = json.dumps(made).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + body[: len(body) - less] + more

    headed = st.builds(
        make,
        st.lists(change, max_size=3) | st.lists(told, min_size=1, max_size=1),
        st.sampled_from([b"", b"", b"\0" * 8]),
        st.sampled_from([0, 0, 0, 1, 64]),
    )
    return headed | headed | bytes_like(blob)


def _texts(said: dict[str, str]) -> st.SearchStrategy[str]:
    """What stands in the metadata, when it is JSON itself: its values replaced; or nested too deeply."""
    inner = [json.loads(value) for value in said.values() if value.startswith("{")]
    deep = st.sampled_from([_DEEP, '{"a":' * 20_000, "Infinity", "NaN", "1" * 5000])
    if not inner:
        return deep
    keys = st.sampled_from(sorted(inner[0]) or ["none"])
    return deep | st.builds(lambda key, value: json.dumps(inner[0] | {key: value}), keys, json_values())


def _changed(header: dict[str, Any], what: str, name: str, value: Any) -> dict[str, Any]:
    if name not in header and what != "said":
        return header
    if what == "drop":
        return {key: entry for key, entry in header.items() if key != name}
    if what == "name":
        return {(value if key == name else key): entry for key, entry in header.items()}
    if what == "whole":
        return header | {name: value}
    place = "__metadata__" if what == "said" else name
    if not isinstance(header.get(place, {}), dict):
        return header
    key = name if what == "said" else what
    return header | {place: {**header.get(place, {}), key: value}}
