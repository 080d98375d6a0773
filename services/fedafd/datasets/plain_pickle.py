"""Reads plain data - containers, text, numbers, NumPy arrays of numbers - from a pickle without executing anything.

Keeping `find_class` to NumPy's own classes is not enough: their `__setstate__` crashes the interpreter on states that
it did not make (found by mutating a good file). So no unpickler is used at all: this is a small interpreter of the
instructions that plain data needs (https://docs.python.org/3/library/pickletools.html), it knows no class and no
function of Python's, and an array is rebuilt by our own code from its type, shape and bytes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedafd.domain.errors import DataError

__all__ = ["load_plain_pickle"]

_NUMBERS = frozenset({"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"})
_NUMBER_OPS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXT_OPS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES_OPS = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_OLD_BYTES_OPS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
"""Of Python 2; pickletools gives them as Latin-1 text."""
_MARK = object()
_SPARE_BYTES = 1 << 20
_TIMES = 4
"""An array's numbers, and each value, lie in the file once; some more are allowed, what names itself is not."""


class _RefusedError(Exception):
    """What is not plain data."""


def load_plain_pickle(content: bytes, name: str) -> Any:
    """The data in a pickle; text of Python 2 comes as bytes. Raises DataError naming `name` for anything else."""
    try:
        return _Finished(len(content)).of(_Machine(len(content)).run(content))
    except Exception as error:  # whatever a hostile file makes the reading raise
        raise DataError(f"{name}: refused, because it is not plain data: {error or type(error).__name__}") from None


class _Type:
    """Stands for numpy.dtype: a kind of number and its byte order."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in _NUMBERS:
            raise _RefusedError(f"an array of {text!r} is not allowed")
        self.dtype = np.dtype(text)

    def restore(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")
        elif order not in ("<", "|", "="):
            raise _RefusedError(f"byte order {order!r} is not allowed")


class _Array:
    """Stands for numpy.ndarray."""

    def __init__(self, *_: object) -> None:
        self.value: NDArray[Any] | None = None

    def restore(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.value = _from_buffer(raw, kind, shape, "F" if fortran else "C")


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    whole = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
    if not whole or not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Type) or order not in ("C", "F"):
        raise _RefusedError("an array is garbled")
    return np.frombuffer(bytes(raw), dtype=kind.dtype).reshape(shape, order=order)


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _RefusedError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


class _Named:
    """A function or class that the file names, of those that NumPy's arrays need."""

    def __init__(self, call: Callable[..., Any] | None) -> None:
        self.call = call


_ALLOWED = {
    "numpy.core.multiarray _reconstruct": _Named(_Array),
    "numpy._core.multiarray _reconstruct": _Named(_Array),
    "numpy.core.numeric _frombuffer": _Named(_from_buffer),
    "numpy._core.numeric _frombuffer": _Named(_from_buffer),
    "numpy dtype": _Named(_Type),
    "numpy ndarray": _Named(None),  # an argument of _reconstruct; not called
    "_codecs encode": _Named(_latin1),
}


class _Machine:
    """A stack and a memo."""

    def __init__(self, size_bytes: int) -> None:
        self.left = _TIMES * size_bytes + _SPARE_BYTES
        """Bytes of arrays and texts that may still be made: the same bytes can be asked for again and again."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(instruction.name)
            if step is None:
                raise _RefusedError(f"instruction {instruction.name} is not allowed")
            step(self, argument)
        raise _RefusedError("it has no end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def take(self, count: int) -> tuple[Any, ...]:
        taken = tuple(self.stack[-count:])
        if len(taken) < count or any(item is _MARK for item in taken):
            raise _RefusedError("too little on the stack")
        del self.stack[-count:]
        return taken

    def take_to_mark(self) -> list[Any]:
        taken = []
        while (item := self.stack.pop()) is not _MARK:
            taken.append(item)
        return taken[::-1]

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _RefusedError("a list is garbled")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _RefusedError("a dictionary is garbled")
        if any(map(_is_container, items[::2])):
            raise _RefusedError("a key that is a container is not allowed")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def name(self, name: str) -> None:
        if name not in _ALLOWED:
            raise _RefusedError(f"{name.replace(' ', '.')} is not allowed")
        self.push(_ALLOWED[name])

    def call(self) -> None:
        named, arguments = self.take(2)
        if not isinstance(named, _Named) or named.call is None or not isinstance(arguments, tuple):
            raise _RefusedError("this call is not allowed")
        _need_flat(arguments)
        result = named.call(*arguments)
        self.spend(result)
        self.push(result)

    def spend(self, result: Any) -> None:
        array = result.value if isinstance(result, _Array) else result
        self.left -= array.nbytes if isinstance(array, np.ndarray) else len(array) if isinstance(array, bytes) else 0
        if self.left < 0:
            raise _RefusedError("it makes more of the same bytes than it holds")

    def restore(self) -> None:
        (state,) = self.take(1)
        if not isinstance(state, tuple):
            raise _RefusedError("a state is garbled")
        _need_flat(state)
        if not isinstance(self.stack[-1], _Array | _Type):
            raise _RefusedError(f"a state for {type(self.stack[-1]).__name__} is not allowed")
        self.stack[-1].restore(state)
        self.spend(self.stack[-1])


_Step = Callable[[_Machine, Any], object]
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda _, __: None),
    **dict.fromkeys((*_NUMBER_OPS, *_TEXT_OPS, *_BYTES_OPS), _Machine.push),
    **dict.fromkeys(_OLD_BYTES_OPS, lambda m, text: m.push(text.encode("latin1"))),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": lambda m, _: m.push(_MARK),
    "LIST": lambda m, _: m.push(m.take_to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.take_to_mark())),
    "DICT": lambda m, _: m.push_dict(m.take_to_mark()),
    "TUPLE1": lambda m, _: m.push(m.take(1)),
    "TUPLE2": lambda m, _: m.push(m.take(2)),
    "TUPLE3": lambda m, _: m.push(m.take(3)),
    "APPEND": lambda m, _: m.append(list(m.take(1))),
    "APPENDS": lambda m, _: m.append(m.take_to_mark()),
    "SETITEM": lambda m, _: m.set_items(list(m.take(2))),
    "SETITEMS": lambda m, _: m.set_items(m.take_to_mark()),
    "POP": lambda m, _: m.take(1),
    "POP_MARK": lambda m, _: m.take_to_mark(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.memo.update({index: m.stack[-1]})),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda m, _: m.name(" ".join(m.take(2))),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.restore(),
}


def _need_flat(arguments: tuple[Any, ...]) -> None:
    """Refuse containers in containers: comparing or showing what names itself often would never end."""
    for argument in arguments:
        if isinstance(argument, list | dict) or (isinstance(argument, tuple) and any(map(_is_container, argument))):
            raise _RefusedError("the arguments of an array are garbled")


def _is_container(value: Any) -> bool:
    return isinstance(value, tuple | list | dict)


class _Finished:
    """Data with arrays in the place of what stands for them, and no more values than the file can hold."""

    def __init__(self, size_bytes: int) -> None:
        self._left = _TIMES * size_bytes + 1000

    def of(self, value: Any) -> Any:
        """The data. A value that the file names twice counts twice, and one that holds itself never ends."""
        self._left -= 1
        if self._left < 0:
            raise _RefusedError("it names its own parts more often than data do")
        if isinstance(value, _Array):
            if value.value is None:
                raise _RefusedError("an array without content is not allowed")
            return value.value
        if isinstance(value, _Named | _Type) or value is _MARK:
            raise _RefusedError("a class is not data")
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item) for item in value]
        return tuple(self.of(item) for item in value) if isinstance(value, tuple) else value
