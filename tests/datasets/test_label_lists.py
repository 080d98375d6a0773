"""Lists of labels in Parquet files and Hugging Face's sets: label sets by name, and a clear word on what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedafd.datasets import ClientData, load_client_data
from fedafd.datasets.labels import label_names
from fedafd.datasets.report import survey
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

LISTS = [["red", "round"], [], ["blue"], ["red"], ["round", "blue", "round"]]
SETS = [("red", "round"), (), ("blue",), ("red",), ("blue", "round")]


def written(folder: Path, labels: Any, kind: pa.DataType | None = None, names: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "val", "test"):
        column = pa.array(labels, kind) if kind is not None else pa.array(labels)
        table = pa.table({"text": [f"{split} text {n}" for n in range(len(labels))], "label": column})
        if names is not None:
            feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
            features = {"text": {"dtype": "string", "_type": "Value"}, "label": feature}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def sets_of(data: ClientData) -> list[tuple[str, ...]]:
    labels: Any = data.train.labels  # type: ignore[union-attr]
    return [tuple(sorted(label_names(labels, n, data.labels))) for n in range(len(data.train))]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), None])
def test_a_column_of_lists_gives_each_sample_its_labels(kind: pa.DataType | None, tmp_path: Path) -> None:
    data = load_client_data("parquet", written(tmp_path / "d", LISTS, kind), ClientKind.TEXT)
    assert data.labels == ("blue", "red", "round")
    assert sets_of(data) == SETS
    report = survey(data).report
    assert report.problems() == ()
    assert report.classes["round"] == {"train": 2, "val": 2, "test": 2}


def test_numbers_of_a_list_are_the_names_of_its_class_label(tmp_path: Path) -> None:
    numbers = [[0, 2], [], [1], [0], [2, 1]]
    folder = written(tmp_path / "d", numbers, pa.list_(pa.int64()), ["red", "blue", "round"])
    data = load_client_data("parquet", folder, ClientKind.TEXT)
    assert data.labels == ("red", "blue", "round")
    assert sets_of(data) == SETS


def test_a_label_without_any_sample_is_left_out(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", [[0], [2], []], pa.list_(pa.int64()), ["red", "blue", "round"])
    data = load_client_data("parquet", folder, ClientKind.TEXT)
    assert data.labels == ("red", "round")
    assert sets_of(data) == [("red",), ("round",), ()]
    assert any("'blue'" in note for note in data.listing.notes)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([["a", None], ["b"]], "row 0: column 'label': an element of its list is empty"),
        ([["a"], None], "row 1: column 'label' has an empty cell"),
        ([["a"], ["b", " "]], "row 1: column 'label'.*a class has an empty name"),
        ([[0], [1, -1]], "row 1: column 'label'.*stands for unlabelled"),
        ([[], []], "needs samples of two or more classes, found 0"),
        ([[["a"]], [["b"]]], "labels must be whole numbers, text or booleans"),
    ],
)
def test_what_is_no_list_of_labels_is_refused_by_its_place(labels: Any, told: str, tmp_path: Path) -> None:
    kind = pa.list_(pa.string()) if labels == [[], []] else None
    with pytest.raises(DataError, match=told):
        load_client_data("parquet", written(tmp_path / "d", labels, kind), ClientKind.TEXT)


def test_lists_in_one_split_and_single_labels_in_another_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", [["a"], ["b"]])
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["a", "b"]}), folder / "test.parquet")
    with pytest.raises(DataError, match="test.parquet: column 'label' holds one label a sample, but lists"):
        load_client_data("parquet", folder, ClientKind.TEXT)


def test_lists_of_a_saved_set_are_read_alike_and_cut_by_label(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    feature = datasets.Sequence(datasets.ClassLabel(names=["red", "blue", "round"]))
    numbers = [[0, 2], [], [1], [0], [2, 1]] * 8
    rows = {"text": [f"text {n}" for n in range(40)], "label": numbers}
    made = datasets.Dataset.from_dict(rows, datasets.Features({"text": datasets.Value("string"), "label": feature}))
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "d")
    options = {"val_fraction": 0.2, "test_fraction": 0.2}
    data = load_client_data("huggingface", tmp_path / "d", ClientKind.TEXT, options)
    assert data.labels == ("red", "blue", "round")
    assert set(sets_of(data)) == set(SETS)
    assert [len(split) for split in (data.train, data.val, data.test)] == [24, 8, 8]
