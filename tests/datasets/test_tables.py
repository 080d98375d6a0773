"""Tables: rows name pictures or texts, with a class, several labels in a cell, or a column for each label."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.datasets import makers

from fedafd.datasets import ClientData, load_client_data
from fedafd.datasets.labels import label_names
from fedafd.datasets.report import survey
from fedafd.datasets.table_hints import table_hints
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

SETS: list[tuple[str, ...]] = [("red", "round"), (), ("blue",), ("red",), ("blue", "round")]
FLAGS = ("red", "blue", "round")


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path.parent


def texts(folder: Path, header: Sequence[str] = ("text", "label"), **rows: Sequence[Sequence[object]]) -> Path:
    for split, found in rows.items():
        write(folder / f"{split}.csv", header, found)
    return folder


def flagged(labels: Sequence[str]) -> list[int]:
    return [int(name in labels) for name in FLAGS]


def load(folder: Path, kind: ClientKind = ClientKind.TEXT, **options: Any) -> ClientData:
    return load_client_data("table", folder, kind, options)


def sets_of(data: ClientData) -> list[tuple[str, ...]]:
    labels: Any = data.train.labels  # type: ignore[union-attr]
    return [tuple(sorted(label_names(labels, n, data.labels))) for n in range(len(data.train))]


@pytest.mark.parametrize("form", ["cell", "columns"])
def test_pictures_have_the_labels_of_their_rows(tmp_path: Path, form: str) -> None:
    rows, name = [], 0
    for split in ("train", "val", "test"):
        for labels in SETS:
            (tmp_path / "images" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / split / f"{name}.png").write_bytes(makers.picture(name))
            told = ["|".join(labels) or "none"] if form == "cell" else flagged(labels)
            rows.append([f"{split}/{name}.png", *told, split])
            name += 1
    header = ["image", *(["label"] if form == "cell" else FLAGS), "split"]
    write(tmp_path / "findings.csv", header, rows)
    way: dict[str, Any] = {"label_columns": list(FLAGS)}
    if form == "cell":
        way = {"label_separator": "|", "no_label": "none"}
    data = load(tmp_path, ClientKind.IMAGE, images="images", **way)
    assert data.labels == ("blue", "red", "round")
    assert sets_of(data) == SETS
    assert [len(split) for split in (data.train, data.val, data.test)] == [5, 5, 5]
    assert (data.listing.files_seen, data.listing.files_read, data.listing.left_out) == (16, 16, ())
    report = survey(data).report
    assert report.problems() == ()
    assert report.classes["round"] == {"train": 2, "val": 2, "test": 2}
    found = table_hints(tmp_path)
    assert found is not None
    assert found[0] is ClientKind.IMAGE
    assert found[1] == ({"label_separator": "|"} if form == "cell" else {"label_columns": list(FLAGS)})


def test_a_column_of_one_class_each_is_read_from_a_file_for_each_split(tmp_path: Path) -> None:
    rows = [[f"a text, {n}", "even" if n % 2 == 0 else "odd"] for n in range(6)]
    data = load(texts(tmp_path, train=rows, valid=rows, test=rows))
    assert data.labels == ("even", "odd")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]  # type: ignore[union-attr]
    assert data.train.texts[3] == "a text, 3"  # type: ignore[union-attr]


@pytest.mark.parametrize(("delimiter", "ending"), [(";", "csv"), ("\t", "csv"), ("\t", "tsv"), ("|", "csv")])
def test_other_delimiters_are_named_and_read(tmp_path: Path, delimiter: str, ending: str) -> None:
    rows = [[f"the text {n}", "ab"[n % 2]] for n in range(20)]
    write(tmp_path / f"all.{ending}", ["text", "label"], rows, delimiter)
    if ending == "csv":
        with pytest.raises(DataError, match=r"all.csv:1: its fields are parted by .* set the option delimiter"):
            load(tmp_path)
    found: Any = table_hints(tmp_path)
    assert found == (ClientKind.TEXT, {} if ending == "tsv" else {"delimiter": delimiter})
    assert len(load(tmp_path, **found[1]).train) == 14


def test_what_a_table_lacks_is_cut_alike_however_its_rows_are_ordered(tmp_path: Path) -> None:
    rows = [[f"the text {n}", "|".join(SETS[n % 5])] for n in range(40)]
    data = load(write(tmp_path / "a" / "t.csv", ["text", "label"], rows), label_separator="|")
    turned = load(write(tmp_path / "b" / "t.csv", ["text", "label"], rows[::-1]), label_separator="|")
    assert [len(split) for split in (data.train, data.val, data.test)] == [28, 4, 8]
    assert set(turned.test.texts) == set(data.test.texts)  # type: ignore[union-attr]
    assert any("split_seed 0" in note for note in data.listing.notes)


NAMES = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_label_sets_are_read_alike_from_cells_and_columns_and_all_are_trained(data: st.DataObject) -> None:
    names = sorted(data.draw(st.sets(NAMES, min_size=2, max_size=5)))
    found = data.draw(st.lists(st.lists(st.sampled_from(names), unique=True), min_size=8, max_size=25))
    found += [[name] for name in names]
    header = [f"text {n}" for n in range(len(found))]
    with tempfile.TemporaryDirectory() as place:
        cells = [[text, "|".join(labels)] for text, labels in zip(header, found, strict=True)]
        one = load(write(Path(place, "a", "t.csv"), ["text", "label"], cells), label_separator="|")
        flags = [[t, *(int(name in labels) for name in names)] for t, labels in zip(header, found, strict=True)]
        columns = ["a text", *(f"is {name}" for name in names)]
        write(Path(place, "b", "t.csv"), columns, flags)
        other = load(Path(place, "b"), text_column="a text", label_columns=columns[1:])
    assert [f"is {name}" for name in one.labels] == sorted(other.labels, key=lambda n: one.labels.index(n[3:]))
    for split in ("train", "val", "test"):
        a, b = getattr(one, split), getattr(other, split)
        assert a.texts[:] == b.texts[:]
        for row in range(len(a)):
            told = {each.removeprefix("is ") for each in label_names(b.labels, row, other.labels)}
            assert set(label_names(a.labels, row, one.labels)) == told
    assert one.train.labels.any(axis=0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([["a b", "x"], ["c d"]], {}, r"train.csv:3: has 1 fields, but the header 2"),
        ([["a b", "x"], ["c d", ""]], {}, r"train.csv:3: column 'label' has an empty cell"),
        ([["a b", "x"], [" ", "y"]], {}, r"train.csv:3: column 'text' holds no text"),
        ([["a b", "x|"], ["c", "y"]], {"label_separator": "|"}, r"train.csv:2: column 'label'.*empty name"),
        ([["a b", "x|z"], ["c", "y"]], {"label_separator": "|", "no_label": "z"}, r"'z' stands for no label"),
        ([["a b", "1"], ["c", "2"]], {"label_columns": ["label", "text"]}, r"train.csv:3: column 'label' is '2'; must"),
        ([["a b", "x"]], {"label_column": "kind"}, r"no column 'kind'; found text, label; options.label_column"),
        ([["a b", "x"]], {"text_column": "words"}, r"no column 'words'; found text, label; options.text_column"),
        ([["a b", "x"], ["c", "x"]], {}, r"no training sample of class 'y' \(1 in val, 1 in test\)"),
        ([], {}, r"train.csv: has a header alone"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_line(
    tmp_path: Path, rows: list[list[str]], options: dict[str, Any], told: str
) -> None:
    good = [["a b", "x"], ["c", "y"]]
    with pytest.raises(DataError, match=told):
        load(texts(tmp_path, train=rows, val=good, test=good), **options)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["0.png", "0.png"], r"t.csv:3: 0.png is there already, at .*t.csv:2"),
        (["0.png", "other.png"], r"t.csv:3: .*has no file other.png"),
        (["0.png", "../../etc/passwd"], r"t.csv:3: column 'image': file name .* leaves the folder"),
        (["0.png", ""], r"t.csv:3: column 'image': file name is ''"),
    ],
)
def test_pictures_that_are_not_there_or_twice_are_refused(tmp_path: Path, cells: list[str], told: str) -> None:
    (tmp_path / "0.png").write_bytes(makers.picture(0))
    write(tmp_path / "t.csv", ["image", "label"], [[cell, "ab"[n]] for n, cell in enumerate(cells)])
    with pytest.raises(DataError, match=told):
        load(tmp_path, ClientKind.IMAGE)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "tables found: none; add train.csv"),
        ({"a.csv": 1, "b.csv": 1}, "tables found: a.csv, b.csv; set the option file"),
        ({"train.csv": 1, "val.csv": 1, "dev.csv": 1}, "dev.csv and val.csv are both files of val"),
        ({"val.csv": 1, "test.csv": 1}, "no train.csv"),
    ],
)
def test_it_is_never_guessed_which_table_is_meant(tmp_path: Path, files: dict[str, int], told: str) -> None:
    for name in files:
        write(tmp_path / name, ["text", "label"], [["a b", "x"], ["c d", "y"]])
    with pytest.raises(DataError, match=told):
        load(tmp_path)


def test_a_split_column_of_something_else_is_refused_and_can_be_left_out(tmp_path: Path) -> None:
    rows = [[f"the text {n}", "ab"[n % 2], "north"] for n in range(20)]
    folder = write(tmp_path / "t.csv", ["text", "label", "split"], rows)
    with pytest.raises(DataError, match=r"t.csv:2: column 'split' is 'north'; must be train, val or test"):
        load(folder)
    assert len(load(folder, split_column=None).train) == 14


def test_classes_that_look_like_several_labels_get_a_note(tmp_path: Path) -> None:
    rows = [[f"the text {n}", ("a|b", "c")[n % 2]] for n in range(20)]
    notes = load(write(tmp_path / "t.csv", ["text", "label"], rows)).listing.notes
    assert any("label_separator" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_columns": ["a"]}, "must name two or more columns"),
        ({"label_columns": ["a", "a"]}, "names a twice"),
        ({"label_columns": ["a", "b"], "label_separator": "|"}, "two ways"),
        ({"no_label": "none"}, "needs label_separator"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "leave something of 1"),
        ({"delimiter": "x"}, "data.options.delimiter"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(tmp_path, **options)


def test_pairs_are_refused_by_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="kind image and text, not pair"):
        load(tmp_path, ClientKind.PAIR)
