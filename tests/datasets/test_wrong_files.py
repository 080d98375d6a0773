"""A file of another kind or form than the adapter reads is refused, saying what it is and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.datasets import makers
from tests.datasets.test_bad_data import refused

from fedafd.datasets import load_client_data
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

# -- another kind of file under the name -----------------------------------------------------------------------------

_OTHERS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "web page": b"<!doctype html><html>an error page</html>" * 20,
    "gzip": b"\x1f\x8b\x08" + bytes(600),
    "7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(600),
}
_FILES: dict[tuple[str, ClientKind], tuple[Callable[[Path], Path], list[str]]] = {
    ("ag-news", ClientKind.TEXT): (makers.ag_news, ["train.csv", "classes.txt"]),
    ("cifar100", ClientKind.IMAGE): (makers.cifar_npz, ["cifar.npz"]),
    ("flickr", ClientKind.PAIR): (makers.karpathy, ["dataset_flickr8k.json", "images.tar"]),
    ("parquet", ClientKind.TEXT): (
        lambda folder: makers.parquet(folder, "text", "label"),
        ["train-00000-of-00001.parquet"],
    ),
}
_PLACES = [(*source, file) for source, (_, files) in _FILES.items() for file in files]


@pytest.mark.parametrize("found", _OTHERS)
@pytest.mark.parametrize(("adapter", "kind", "file"), _PLACES)
def test_a_file_of_another_kind_is_refused_saying_what_it_is(
    tmp_path: Path, adapter: str, kind: ClientKind, file: str, found: str
) -> None:
    folder = _FILES[adapter, kind][0](tmp_path)
    (folder / file).write_bytes(_OTHERS[found])
    refused(adapter, folder, rf"{file}: .*{found}", kind)


@pytest.mark.parametrize(("adapter", "kind", "file"), _PLACES)
def test_a_pipe_in_place_of_a_file_is_refused_and_never_waited_for(
    tmp_path: Path, adapter: str, kind: ClientKind, file: str
) -> None:
    folder = _FILES[adapter, kind][0](tmp_path)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused(adapter, folder, "no such file|no such folder or tar", kind)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_rows_parted_by_other_marks_than_commas_say_which(tmp_path: Path, mark: str, name: str) -> None:
    folder = makers.ag_news(tmp_path)
    (folder / "train.csv").write_text(f"1{mark}title{mark}text, more\n2{mark}title{mark}text\n")
    refused("ag-news", folder, rf"train.csv:1: its fields are parted by {name}.*commas", ClientKind.TEXT)


def test_a_header_row_a_missing_classes_file_and_a_name_twice_are_told_with_the_remedy(tmp_path: Path) -> None:
    folder = makers.ag_news(tmp_path)
    whole = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text("class,title,text\n" + whole)
    refused("ag-news", folder, r"train.csv:1: class is 'class'; .*remove the row if it is a header", ClientKind.TEXT)
    (folder / "train.csv").write_text(whole)
    (folder / "classes.txt").write_text("World\nWorld\n")
    refused("ag-news", folder, r"'World' occur twice; each class must be there once", ClientKind.TEXT)
    (folder / "classes.txt").unlink()
    refused(
        "ag-news",
        folder,
        r"classes.txt: no such file; write it: the names of classes 1, 2 and so on, one a line",
        ClientKind.TEXT,
    )


@pytest.mark.parametrize("blank", ["", "  ", "\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH NO-BREAK SPACE}\N{NO-BREAK SPACE}"])
def test_texts_without_a_character_that_can_be_seen_are_refused_and_such_captions_left_out(
    tmp_path: Path, blank: str
) -> None:
    folder = makers.ag_news(tmp_path / "csv")
    with (folder / "train.csv").open("a") as file:
        file.write(f'1,"{blank}","{blank}"\n')
    refused("ag-news", folder, r"train.csv:21: has no text", ClientKind.TEXT)
    texts = makers.parquet(tmp_path / "texts", "text", "label", text=["a", "b", blank, "d", "e", "f"])
    refused("parquet", texts, r"row 2: column 'text' holds no text, but a blank", ClientKind.TEXT)
    pairs = makers.coco(tmp_path / "coco")
    content = json.loads((pairs / "captions_train.json").read_text())
    content["annotations"][0]["caption"] = blank
    (pairs / "captions_train.json").write_text(json.dumps(content))
    data = load_client_data("coco", pairs, ClientKind.PAIR)
    assert [len(captions) for captions in data.train.captions] == [1, 2, 2, 2]  # type: ignore[union-attr]
    assert "1 blank captions are left out" in data.listing.notes


def test_a_picture_that_parquet_only_names_a_folder_in_place_of_a_shard_and_packed_images_are_told(
    tmp_path: Path,
) -> None:
    cells = [{"bytes": None, "path": "/data/cat.png"}] * 6
    folder = makers.parquet(tmp_path / "paths", "image", "label", image=cells)
    refused("parquet", folder, r"row 0: column 'image' holds only the path '/data/cat.png'", ClientKind.IMAGE)
    folder = makers.parquet(tmp_path / "spark", "text", "label")
    shard = folder / "train-00000-of-00001.parquet"
    (folder / "part-0.parquet").write_bytes(shard.read_bytes())
    shard.unlink()
    shard.mkdir()
    refused(
        "parquet", folder, r"is a folder; .*options.train.* to train-00000-of-00001.parquet/\*.parquet", ClientKind.TEXT
    )
    folder = makers.karpathy(tmp_path / "zip")
    (folder / "images.tar").rename(folder / "images.zip")
    refused("flickr", folder, r"neither .*; unpack images.zip into images/")


@pytest.mark.parametrize("option", ["images", "annotations"])
def test_names_too_long_for_the_file_system_are_no_such_file(tmp_path: Path, option: str) -> None:
    with pytest.raises(DataError, match="no such f"):
        load_client_data("flickr", makers.karpathy(tmp_path), ClientKind.PAIR, {option: "x" * 300})
    with pytest.raises(DataError, match="not a folder"):
        load_client_data("flickr", tmp_path / ("x" * 300), ClientKind.PAIR)
