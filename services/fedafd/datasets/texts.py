"""Text that every part of the product can hold: UTF-8 without NUL or half characters, in lines that end at LF or CRLF.

A lone surrogate, half a character of UTF-16, comes from cut emoji and JSON escapes; nothing can write it as UTF-8.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable

from fedafd.domain.errors import DataError

__all__ = ["decoded", "is_visible", "lines_of", "normal_name", "sound_text", "text_bytes"]

_UNSOUND = re.compile("[\0\ud800-\udfff]")
_UNSEEN = ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs")
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def text_bytes(pieces: Iterable[bytes], path: object, longest_line: int | None = None) -> bytearray:
    """The pieces of a text file together. Raises DataError as soon as a piece shows that it is none.

    That is a mark of another encoding, a NUL, or with `longest_line` a line of more bytes: a file that is no text may
    be of any length, and is not read to its end.
    """
    content, line, begin = bytearray(), 1, 0
    for piece in pieces:
        if not content:
            _refuse_other_marks(piece, path)
        nul, length = piece.find(b"\0"), len(content)
        if nul >= 0:
            raise _holds_nul(path, line + piece.count(b"\n", 0, nul))
        content += piece
        if longest_line is not None:
            first, last = piece.find(b"\n"), piece.rfind(b"\n")
            end = length + (first if first >= 0 else len(piece))
            if end - begin > longest_line:
                raise DataError(f"{path}:{line}: the line has more than {longest_line} bytes; shorten or remove it")
            begin = begin if last < 0 else length + last + 1
        line += piece.count(b"\n")
    return content


def decoded(content: bytes | bytearray, path: object) -> str:
    """A text file's content. Raises DataError naming the line that is not UTF-8 or holds a NUL."""
    _refuse_other_marks(content, path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8: {error.reason}; save the file as UTF-8") from None
    if "\0" in text:
        raise _holds_nul(path, text.count("\n", 0, text.index("\0")) + 1)
    return text


def _refuse_other_marks(content: bytes | bytearray, path: object) -> None:
    for mark, encoding in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise DataError(f"{path}:1: is {encoding}; save the file as UTF-8")


def _holds_nul(path: object, line: int) -> DataError:
    return DataError(f"{path}:{line}: holds a NUL character, as no text does; save the file as UTF-8 text")


def lines_of(text: str, path: object) -> list[str]:
    """Lines without their ends, LF or CRLF. Raises DataError for a carriage return alone."""
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            raise DataError(f"{path}:{number}: has a carriage return alone; lines must end at LF or CRLF")
    return lines


def sound_text(text: str, where: object) -> str:
    """`text`, if it can be stored. Raises DataError naming `where` for a NUL or half a character."""
    unsound = _UNSOUND.search(text)
    if unsound is None:
        return text
    what = "a NUL character" if unsound[0] == "\0" else f"half a character (U+{ord(unsound[0]):04X}, a lone surrogate)"
    raise DataError(f"{where}: holds {what} at position {unsound.start()}; mend or remove it")


def normal_name(name: str, where: object) -> str:
    """A class name in Unicode's composed form (NFC), in which names are compared. Raises DataError for an empty one."""
    normal = unicodedata.normalize("NFC", sound_text(name, where)).strip()
    if not is_visible(normal):
        raise DataError(f"{where}: a class has an empty name; give it one")
    return normal


def is_visible(text: str) -> bool:
    """Whether any character of `text` can be seen: neither space nor control, nor of no width."""
    return any(unicodedata.category(character) not in _UNSEEN for character in text)
