"""Cells of columns as samples: texts, captions, ids and pictures, each refused by its place where it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedafd.datasets.files import need_unique
from fedafd.datasets.parquet_files import Column
from fedafd.datasets.samples import PairSplit
from fedafd.datasets.texts import is_visible, sound_text
from fedafd.domain.errors import DataError

__all__ = ["caption_lists", "need_apart", "picture_bytes", "sample_ids", "sound_texts"]

_SHOWN = 5


def sound_texts(column: Column) -> list[str]:
    """Texts with a visible character each. Raises DataError."""
    for row, text in enumerate(column.values):
        if not isinstance(text, str) or not is_visible(text):
            raise DataError(f"{column.where(row)} holds no text, but {_kind(text)}")
        sound_text(text, column.where(row))
    return column.values


def caption_lists(column: Column) -> list[tuple[str, ...]]:
    """One caption or more of each row; blank ones are left out. Raises DataError."""
    return [_captions(texts, column.where(row)) for row, texts in enumerate(column.values)]


def sample_ids(column: Column, where: str) -> tuple[str, ...]:
    """Texts or whole numbers, each there once; `where` names the column as a whole. Raises DataError."""
    for row, value in enumerate(column.values):
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{column.where(row)} must be text or a whole number, found {_kind(value)}")
    ids = tuple(sound_text(str(value), column.where(row)) for row, value in enumerate(column.values))
    need_unique(ids, where)
    return ids


def need_apart(splits: Mapping[str, PairSplit], where: object) -> tuple[str, ...]:
    """Refuse ids that are in two splits, but for a val split that is the test split altogether; it gets a note."""
    val, test = splits["val"], splits["test"]
    same = bool(val.ids) and val.ids == test.ids and list(val.captions) == list(test.captions)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        common = sorted(set(splits[one].ids) & set(splits[other].ids))
        if common and not (same and one == "val"):
            more = f" and {len(common) - _SHOWN} more" if len(common) > _SHOWN else ""
            raise DataError(
                f"{where}: ids {', '.join(map(repr, common[:_SHOWN]))}{more} are in {one} and in {other}; each sample"
                " must be in one split. If the column is no identity of samples, set options.id_column to null"
            )
    return ("val and test hold the same samples",) if same else ()


def picture_bytes(cell: Any, where: str) -> bytes:
    """The content of a picture's file. Raises DataError for a cell without it, such as one of a path alone."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(cell, dict) and content is None and isinstance(cell.get("path"), str):
        raise DataError(
            f"{where} holds only the path {cell['path'][:80]!r} of a picture, not its content; write it"
            " again with the pictures inside (Hugging Face: datasets.Image, embed_external_files)"
        )
    if not isinstance(content, bytes):
        raise DataError(
            f"{where} must hold the file's bytes, as in Hugging Face's layout: a struct with `bytes`; found"
            f" {_kind(cell)}"
        )
    return content


def _captions(texts: Any, where: str) -> tuple[str, ...]:
    if not isinstance(texts, list):
        raise DataError(f"{where} must be a list of texts, found {_kind(texts)}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            fields = (
                f"; options.caption_column names a field of it: {', '.join(text)}" if isinstance(text, dict) else ""
            )
            raise DataError(f"{where}: element {number} must be text, found {_kind(text)}{fields}")
        sound_text(text, f"{where}: element {number}")
    seen = tuple(text.strip() for text in texts if is_visible(text))
    if not seen:
        raise DataError(f"{where} has no caption")
    return seen


def _kind(value: object) -> str:
    known = {type(None): "null", list: "a list", dict: "a struct", bytes: "bytes", bool: "true or false", str: "text"}
    known |= {int: "a number", float: "a number"}
    if isinstance(value, str) and not is_visible(value):
        return "a blank"
    return known.get(type(value), f"a {type(value).__name__}")
