"""Parquet from real life: shards, backup copies, label types, ClassLabel, nested columns, ids in two splits."""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets import makers

from fedafd.datasets import ClientData, PairSplit, PublicSet, load_client_data, load_public_data, write_public_set
from fedafd.datasets.fingerprint import data_fingerprint
from fedafd.datasets.texts import is_visible
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10)


def write(path: Path, features: dict[str, Any] | None = None, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def texts(folder: Path, *, labels: Any = (0, 1, 0, 1), **files: dict[str, Any]) -> Path:
    """`train`, `val`, `test` of four texts each with `labels`; `files` replaces columns of one."""
    for split in makers.SPLITS:
        columns = {"text": [f"{split} {n}" for n in range(len(labels))], "label": labels} | files.get(split, {})
        write(folder / f"{split}.parquet", **columns)
    return folder


def load(folder: Path, **options: Any) -> ClientData:
    return load_client_data("parquet", folder, ClientKind.TEXT, options)


def read(folder: Path, **options: Any) -> list[str]:
    return list(load(folder, **options).train.texts)  # type: ignore[union-attr]


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet",),
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
        ("train-00000-of-00001-b42a775f407cee45.parquet",),
        ("train-0.parquet", "train-1.parquet", "train-2.parquet", *(f"train-{n}.parquet" for n in range(3, 11))),
        ("train-1.parquet", "train-2.parquet"),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
    ],
)
def test_shards_are_read_in_the_order_of_their_numbers(tmp_path: Path, names: tuple[str, ...]) -> None:
    (texts(tmp_path) / "train.parquet").unlink()
    for number, name in enumerate(names):
        write(tmp_path / name, text=[f"{number} a", f"{number} b"], label=[0, 1])
    assert read(tmp_path) == [f"{number} {letter}" for number in range(len(names)) for letter in "ab"]
    listing = load(tmp_path).listing
    assert (listing.files_seen, listing.files_read, listing.left_out) == (len(names) + 2, len(names) + 2, ())


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "train_old.parquet"),
        ("train.parquet", "train-backup-2020.parquet"),
        ("train.parquet", "Train.parquet"),
        ("train.parquet", "train.copy.parquet"),
        ("train.parquet", "train (1).parquet"),
        ("train.parquet", "train-00000-of-00001.parquet"),
        ("train-0.parquet", "train-2.parquet"),
        ("train-2020.parquet",),
        ("train-00000-of-00002.parquet",),
        ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet"),
        ("train.parquet", "data/train.parquet"),
    ],
)
def test_files_among_which_none_can_be_chosen_are_named_with_the_option(tmp_path: Path, names: tuple[str, ...]) -> None:
    (texts(tmp_path) / "train.parquet").unlink()
    for name in names:
        write(tmp_path / name, text=["a", name], label=[0, 1])
    with pytest.raises(DataError, match=r"split train: .*; set options.train to the name or pattern") as refused:
        load(tmp_path)
    assert all(name in str(refused.value) for name in names)
    assert read(tmp_path, train=names[-1]) == ["a", names[-1]]
    unused = {name for each in load(tmp_path, train=names[-1]).listing.left_out for name in each.examples}
    assert unused == set(names[:-1])


def test_files_of_other_names_are_left_out_and_told(tmp_path: Path) -> None:
    for name in ("values.parquet", "trainer.parquet", "unsupervised-0.parquet", "README.md", "._train.parquet"):
        write(tmp_path / name, text=["x"], label=[7])
    listing = load(texts(tmp_path)).listing
    assert {(each.reason.value, each.count) for each in listing.left_out} == {
        ("unused", 3),
        ("hidden", 1),
        ("extension", 1),
    }


def test_a_split_without_a_file_says_what_there_is(tmp_path: Path) -> None:
    (texts(tmp_path) / "val.parquet").rename(tmp_path / "held-out.parquet")
    with pytest.raises(
        DataError, match=r"no file val.parquet or .*; Parquet files found: held-out.parquet, .*options.val"
    ):
        load(tmp_path)
    assert len(load(tmp_path, val="held-*.parquet").val) == 4
    for pattern in ("gone.parquet", "../x.parquet", "/x.parquet", "a/**b", ""):
        with pytest.raises(DataError, match=r"data\.options\.val"):
            load(tmp_path, val=pattern)


def test_val_and_validation_are_one_split(tmp_path: Path) -> None:
    (texts(tmp_path) / "val.parquet").rename(tmp_path / "validation.parquet")
    assert len(load(tmp_path).val) == 4
    write(tmp_path / "dev.parquet", text=["x"], label=[0])
    with pytest.raises(DataError, match=r"split val: .*: dev.parquet, validation.parquet; set options.val"):
        load(tmp_path)


def test_errors_of_the_reader_are_one_line_with_the_file(tmp_path: Path) -> None:
    (texts(tmp_path) / "test.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DataError, match=r"test.parquet: not readable as Parquet: ") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


def test_shards_may_differ_in_columns_that_are_not_read_and_in_width(tmp_path: Path) -> None:
    (texts(tmp_path) / "train.parquet").unlink()
    write(tmp_path / "train-0.parquet", text=["a", "b"], label=pa.array([0, 1], pa.int64()))
    write(tmp_path / "train-1.parquet", label=pa.array([1.0], pa.float32()), text=["c"], extra=[[1]])
    write(tmp_path / "train-2.parquet", text=pa.array(["d"]).dictionary_encode(), label=pa.array([1], pa.uint8()))
    data = load(tmp_path)
    assert (read(tmp_path), data.train.labels.tolist()) == (["a", "b", "c", "d"], [0, 1, 1, 1])  # type: ignore[union-attr]
    write(tmp_path / "train-2.parquet", text=["d"], label=["1"])
    with pytest.raises(
        DataError, match=r"train-2.parquet: column 'label' holds text, but whole numbers in .*train-0.par"
    ):
        load(tmp_path)
    write(tmp_path / "train-2.parquet", text=["d"], labels=[1])
    with pytest.raises(
        DataError, match=r"train-2.parquet: no column 'label'; found text, labels; options.label_column"
    ):
        load(tmp_path)
    write(tmp_path / "train-2.parquet", text=[" "], label=[1])
    with pytest.raises(DataError, match=r"train-2.parquet, row 0: column 'text' holds no text, but a blank"):
        load(tmp_path)


# -- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 2, 10], ("2", "9", "10")),
        (pa.array([0, 255, 0, 255], pa.uint8()), ("0", "255")),
        ([10.0, 2.0, 2.0, 10.0], ("2", "10")),
        ([Decimal("1.00"), Decimal("3.00")] * 2, ("1", "3")),
        ([True, False, True, False], ("False", "True")),
        (["b", "a", "b", "10"], ("10", "a", "b")),
        (["Cafe\u0301", "Caf\u00e9", "x", "x"], ("Caf\u00e9", "x")),
        (["\u00b2", "3", "3", "9" * 30], ("3", "9" * 30, "\u00b2")),
        ([b"dog", "caf\u00e9".encode(), b"dog", b"dog"], ("caf\u00e9", "dog")),
        (pa.array(["b", "a", "b", "a"]).dictionary_encode(), ("a", "b")),
        (pa.array(["b", "a", "b", "a"], pa.large_string()), ("a", "b")),
        (pa.array([1, 0, 1, 0], pa.int8()).dictionary_encode(), ("0", "1")),
    ],
)
def test_labels_of_every_fitting_type_become_names(tmp_path: Path, labels: Any, names: tuple[str, ...]) -> None:
    assert load(texts(tmp_path, labels=labels)).labels == names


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([-1, 0, 1, 0], r"row 0: column 'label' is -1, which stands for unlabelled; remove such rows"),
        ([0.0, -1.0, 1.0, 0.0], r"row 1: column 'label' is -1, which stands for unlabelled"),
        ([0.0, 1.0, 0.5, 1.0], r"row 2: column 'label' is 0.5; a label must be a whole number"),
        ([0.0, 1.0, float("nan"), 1.0], r"row 2: column 'label' is nan; a label must be"),
        ([0.0, float("inf"), 1.0, 1.0], r"row 1: column 'label' is inf; a label must be"),
        ([Decimal("0.5")] * 4, r"row 0: column 'label' is 0.5; a label must be"),
        ([0, None, 1, 0], r"row 1: column 'label' has an empty cell; fill it, or remove the row"),
        ([None] * 4, r"row 0: column 'label' has an empty cell"),
        ([[[0]], [[1]], [[0]], [[1]]], r"column 'label' is of type list<.*>; labels must be"),
        ([{"a": 1}] * 4, r"column 'label' is of type struct<.*>; labels must be"),
        (pa.array([0, 1, 2, 3], pa.timestamp("s")), r"column 'label' is of type timestamp.*; labels must be"),
        ([b"a", b"\xff", b"a", b"a"], r"row 1: column 'label' is no UTF-8"),
        (["a", " ", "a", "a"], r"row 1: column 'label': a class has an empty name"),
        (["a", "b\0", "a", "a"], r"row 1: column 'label': holds a NUL character"),
        ([1, 1, 1, 1], r"needs samples of two or more classes, found 1: '1'"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_file_and_row(tmp_path: Path, labels: Any, match: str) -> None:
    with pytest.raises(DataError, match=match) as refused:
        load(texts(tmp_path, labels=labels))
    assert "train.parquet" in str(refused.value) or "two or more" in match


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=2, max_size=5))
def test_names_of_any_script_survive_in_nfc(tmp_path: Path, names: list[str]) -> None:
    normal = {unicodedata.normalize("NFC", name).strip() for name in names}
    if not all(map(is_visible, normal)) or len(normal) < 2:
        return
    assert set(load(texts(tmp_path, labels=names)).labels) == normal


def label_feature(*names: str) -> dict[str, Any]:
    return {"text": {"dtype": "string"}, "label": {"names": list(names), "_type": "ClassLabel"}}


def test_class_label_gives_names_in_its_order_and_a_class_without_samples_is_told(tmp_path: Path) -> None:
    for split in makers.SPLITS:
        columns = {"text": ["a", "b", "c"], "label": pa.array([3, 0, 1], pa.int32())}
        write(tmp_path / f"{split}.parquet", label_feature("zebra", "cafe\u0301", "unicorn", "ape"), **columns)
    data = load(tmp_path)
    assert data.labels == ("zebra", "caf\u00e9", "ape")
    assert data.train.labels.tolist() == [2, 0, 1]  # type: ignore[union-attr]
    assert data.listing.notes == ("left out for want of any sample: class 'unicorn'",)


def test_class_labels_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"text": ["a", "b"], "label": [0, 1]}
    for split in makers.SPLITS:
        write(tmp_path / f"{split}.parquet", label_feature("cat", "dog"), **columns)
    write(tmp_path / "test.parquet", label_feature("dog", "cat"), **columns)
    with pytest.raises(
        DataError, match=r"test.parquet: its ClassLabel names other classes than that of .*train.parquet"
    ):
        load(tmp_path)
    write(tmp_path / "test.parquet", **columns)
    assert load(tmp_path).labels == ("cat", "dog")
    assert any("test.parquet, which has no ClassLabel" in note for note in load(tmp_path).listing.notes)
    write(tmp_path / "test.parquet", text=["a", "b"], label=[0, 2])
    with pytest.raises(DataError, match=r"test.parquet, row 1: column 'label' is 2, but .* has 2 names, from 0"):
        load(tmp_path)
    write(tmp_path / "test.parquet", label_feature("cat", "dog"), text=["a", "b"], label=[0, -1])
    with pytest.raises(DataError, match=r"test.parquet, row 1: column 'label' is -1, which stands for unlabelled"):
        load(tmp_path)
    write(tmp_path / "train.parquet", label_feature("cat", "cat"), **columns)
    with pytest.raises(DataError, match=r"train.parquet: ClassLabel of column 'label': 'cat' occur twice"):
        load(tmp_path)


def test_a_class_that_only_a_held_out_split_has_is_refused(tmp_path: Path) -> None:
    folder = texts(tmp_path, test={"text": ["a", "b"], "label": [0, 5]})
    with pytest.raises(DataError, match=r"no training sample of class '5' \(1 in test\)"):
        load(folder)


# -- columns ---------------------------------------------------------------------------------------------------------


def test_options_name_columns_and_fields_of_structs(tmp_path: Path) -> None:
    image = {"bytes": makers.picture(), "path": "x"}
    for split in makers.SPLITS:
        columns: dict[str, Any] = {
            "meta.split": [split] * 2,
            "record": [{"img": image, "target": {"name": name}, "raw": image["bytes"]} for name in ("b", "a")],
            "notes": [[{"raw": "one"}, {"raw": "two"}]] * 2,
            "report": ["some text"] * 2,
            "label": [0, 1],
        }
        write(tmp_path / f"{split}.parquet", **columns)
    labelled = {"label_column": "record.target.name"}
    for column in ("record.img", "record.raw"):
        images = load_client_data("parquet", tmp_path, ClientKind.IMAGE, labelled | {"image_column": column})
        assert (images.labels, images.train.images[0].shape) == (("a", "b"), (10, 12, 3))  # type: ignore[union-attr]
    assert read(tmp_path, text_column="report", **labelled) == ["some text"] * 2
    assert read(tmp_path, text_column="meta.split") == ["train"] * 2
    pairs = load_public_data("parquet", tmp_path, {"image_column": "record.img", "caption_column": "notes.raw"})
    assert pairs["train"].captions == [("one", "two")] * 2
    with pytest.raises(DataError, match=r"column 'record.target.nam': no field 'nam' there; found name"):
        load(tmp_path, label_column="record.target.nam")
    with pytest.raises(DataError, match=r"column 'report.raw': no field 'raw' there; found string"):
        load(tmp_path, text_column="report.raw")
    with pytest.raises(
        DataError, match=r"no column 'gone.raw'; found meta.split, record, .*; options.text_column names"
    ):
        load(tmp_path, text_column="gone.raw")
    with pytest.raises(DataError, match=r"row 0: column 'record' must hold the file's bytes.*; found a struct"):
        load_client_data("parquet", tmp_path, ClientKind.IMAGE, {"image_column": "record"})


@pytest.mark.parametrize(
    ("captions", "match"),
    [
        ([["a", None]], r"train.parquet, row 0: column 'captions': element 1 must be text, found null"),
        ([[{"raw": "a", "id": 1}]], r"element 0 must be text, found a struct; options.caption_column .*: raw, id"),
        ([[1, 2]], r"element 0 must be text, found a number"),
        ([[["a"]]], r"element 0 must be text, found a list"),
        (["a"], r"row 0: column 'captions' must be a list of texts, found text"),
        ([["a\0"]], r"row 0: column 'captions': element 0: holds a NUL"),
    ],
)
def test_captions_that_are_no_texts_name_row_and_element(tmp_path: Path, captions: Any, match: str) -> None:
    write(pairs(tmp_path) / "train.parquet", image=[{"bytes": makers.picture(), "path": ""}], captions=captions)
    with pytest.raises(DataError, match=match):
        load_public_data("parquet", tmp_path)


def pairs(folder: Path, **ids: list[Any]) -> Path:
    for number, split in enumerate(makers.SPLITS):
        made = ids.get(split, [f"{split}-0", f"{split}-1"])
        images = [{"bytes": makers.picture(10 * number + row), "path": ""} for row in range(len(made))]
        write(folder / f"{split}.parquet", image=images, captions=[["a"]] * len(made), id=made)
    return folder


# -- ids -------------------------------------------------------------------------------------------------------------


def test_ids_in_two_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ids 'a' are in train and in test; each sample must be in one split"):
        load_public_data("parquet", pairs(tmp_path, train=["a", "b"], test=["c", "a"]))
    with pytest.raises(DataError, match=r"ids 'a' are in val and in test"):
        load_public_data("parquet", pairs(tmp_path, val=["a", "b"], test=["c", "a"]))
    with pytest.raises(DataError, match=r"ids '1', '2' are in train and in val"):
        load_public_data("parquet", pairs(tmp_path, train=[1, 2], val=[1, 2], test=[3, 4]))
    assert load_public_data("parquet", tmp_path, {"id_column": None})["train"].ids == ()
    with pytest.raises(DataError, match=r"row 0: column 'id' must be text or a whole number, found a number"):
        load_public_data("parquet", pairs(tmp_path, train=[0.5, 1.5]))


def test_ids_that_one_shard_lacks_are_refused(tmp_path: Path) -> None:
    (pairs(tmp_path) / "train.parquet").rename(tmp_path / "train-0.parquet")
    image = [{"bytes": makers.picture(), "path": ""}]
    write(tmp_path / "train-1.parquet", image=image, captions=[["a"]])
    with pytest.raises(DataError, match=r"train-1.parquet: no column 'id', but .*train-0.parquet has it"):
        load_public_data("parquet", tmp_path)


def test_a_public_set_may_be_validated_on_its_test_split(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "in")
    (folder / "val.parquet").write_bytes((folder / "test.parquet").read_bytes())
    splits = load_public_data("parquet", folder)
    assert splits["val"].ids == splits["test"].ids == ("test-0", "test-1")
    write_public_set(splits, tmp_path / "set")
    held = PublicSet.open(tmp_path / "set")
    np.testing.assert_array_equal(held.split("val").images[0], held.split("test").images[0])
    data = load_client_data("parquet", folder, ClientKind.PAIR)
    assert isinstance(data.train, PairSplit)
    assert data.listing.notes == ("val and test hold the same samples",)


def test_the_order_of_columns_changes_nothing(tmp_path: Path) -> None:
    one = texts(tmp_path / "one")
    for split in makers.SPLITS:
        table = pq.read_table(one / f"{split}.parquet")
        write(tmp_path / "other" / f"{split}.parquet", label=table["label"], text=table["text"])
    assert data_fingerprint(load(one)) == data_fingerprint(load(tmp_path / "other"))
