"""What annotations say about pictures: Karpathy's JSON (Flickr8k, Flickr30k, COCO) and COCO's own captions JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedafd.datasets.files import need_plain_path, need_unique, read_json
from fedafd.datasets.texts import is_visible, sound_text
from fedafd.domain.errors import DataError

__all__ = ["SPLITS", "CocoEntries", "Entry", "coco_entries", "karpathy_entries"]

SPLITS = ("train", "val", "test")
_JSON_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class Entry:
    """One picture."""

    where: str
    """Where in the annotations it stands."""
    file: str
    captions: tuple[str, ...]
    """None of them is blank."""
    role: object = None
    blank: int = 0
    """How many blank captions were left out."""


def karpathy_entries(path: Path, adapter: str) -> dict[str, list[Entry]]:
    """Entries of each split; `restval` counts as train. Raises DataError naming the entry and the field."""
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for number, image in enumerate(_list(read_json(path, adapter), "images", path)):
        split, entry = _karpathy_entry(image, f"{path}: images[{number}]")
        splits[split].append(entry)
    need_unique([entry.file for entries in splits.values() for entry in entries], str(path))
    return splits


def _karpathy_entry(image: Any, where: str) -> tuple[str, Entry]:
    split = _field(image, "split", where)
    if split not in (*SPLITS, "restval"):
        raise DataError(f"{where}: split is {split!r}; must be train, restval, val or test")
    file = _file(_field(image, "filename", where), where)
    # Karpathy's COCO names the folder apart from the file; the others do not.
    if folder := image.get("filepath"):
        file = f"{_file(folder, where)}/{file}"
    sentences = _need(_field(image, "sentences", where), list, f"{where}.sentences")
    raw = [_sentence(sentence, f"{where}.sentences[{number}]") for number, sentence in enumerate(sentences)]
    captions = tuple(caption for caption in raw if is_visible(caption))
    if not captions:
        raise DataError(f"{where}: {file} has no caption")
    entry = Entry(where, file, captions, image.get("role"), len(raw) - len(captions))
    return "train" if split == "restval" else split, entry


def _sentence(sentence: Any, where: str) -> str:
    if not isinstance(sentence, dict):
        raise DataError(f"{where} must be an object with the text in `raw`, found {_kind(sentence)}")
    raw = _need(_field(sentence, "raw", where), str, f"{where}.raw")
    return sound_text(raw, f"{where}.raw").strip()


class CocoEntries(NamedTuple):
    """Entries of one file, and what was left out."""

    entries: list[Entry]
    without_caption: int
    """Images that no caption is about."""
    blank: int
    """Captions."""


def coco_entries(path: Path, adapter: str) -> CocoEntries:
    """Entries of one file of COCO. Raises DataError naming the entry and the field."""
    content = read_json(path, adapter)
    files: dict[int | str, tuple[str, str]] = {}
    for number, image in enumerate(_list(content, "images", path)):
        where = f"{path}: images[{number}]"
        key, file = _key(image, "id", where), _field(image, "file_name", where)
        if key in files:
            raise DataError(f"{where}: id {key!r} occurs twice; each image must be there once")
        files[key] = where, _file(file, where)
    need_unique([file for _, file in files.values()], str(path))
    captions: dict[int | str, list[str]] = {}
    blank = 0
    for number, note in enumerate(_list(content, "annotations", path)):
        where = f"{path}: annotations[{number}]"
        key, caption = _key(note, "image_id", where), _need(_field(note, "caption", where), str, f"{where}.caption")
        if key not in files:
            raise DataError(f"{where}: image_id {key!r} is the id of none of the images; correct or remove it")
        if is_visible(sound_text(caption, f"{where}.caption")):
            captions.setdefault(key, []).append(caption.strip())
        else:
            blank += 1
    entries = [Entry(where, file, tuple(captions[key])) for key, (where, file) in files.items() if key in captions]
    return CocoEntries(entries, len(files) - len(entries), blank)


def _key(entry: Any, name: str, where: str) -> int | str:
    value = _field(entry, name, where)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}.{name} must be a number or text, found {_kind(value)}")
    return value


def _file(name: object, where: str) -> str:
    return sound_text(need_plain_path(name, where), f"{where}: file name")


def _field(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, dict):
        raise DataError(f"{where} must be an object, found {_kind(entry)}")
    if name not in entry:
        raise DataError(f"{where}: has no {name!r}")
    return entry[name]


def _need(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise DataError(f"{where} must be {_JSON_KINDS[kind]}, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), f"the number {value}")


def _list(content: Any, key: str, path: Path) -> list[Any]:
    values = content.get(key) if isinstance(content, dict) else None
    if not isinstance(values, list):
        raise DataError(f"{path}: has no list {key!r}")
    return values
