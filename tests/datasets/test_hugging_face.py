"""Data sets of Hugging Face's library: saved folders, what the hub's loader makes, and what is refused, by place."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from fedafd.agent.proposal import propose
from fedafd.datasets import ClientData, fingerprint_of, load_client_data, load_public_data
from fedafd.datasets.hub_sets import hub_set, saved_set
from fedafd.datasets.report import survey
from fedafd.datasets.texts import is_visible
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

hf = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'fedafd[huggingface]'")

SPLITS = ("train", "validation", "test")
CLASSES = hf.ClassLabel(names=["cat", "dog"])


def pictures(count: int, first: int = 0) -> list[Picture.Image]:
    return [Picture.new("RGB", (8, 8), (first + n, 10 * n, 0)) for n in range(count)]


def png(picture: Picture.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def saved(folder: Path, columns: dict[str, list[Any]], features: dict[str, Any], splits: Any = SPLITS) -> Path:
    """A DatasetDict in a folder; the columns' rows are the same in each split."""
    made = hf.Dataset.from_dict(columns, features=hf.Features(features))
    hf.DatasetDict(dict.fromkeys(splits, made)).save_to_disk(str(folder))
    return folder


def images(folder: Path, splits: Any = SPLITS, count: int = 4) -> Path:
    columns: dict[str, list[Any]] = {"image": pictures(count), "label": [0, 1] * (count // 2)}
    return saved(folder, columns, {"image": hf.Image(), "label": CLASSES}, splits)


def texts(folder: Path, labels: Any = (1, 0, 1, 0), kind: Any = CLASSES, splits: Any = SPLITS) -> Path:
    columns = {"text": [f"text {n}" for n in range(len(labels))], "label": list(labels)}
    return saved(folder, columns, {"text": hf.Value("string"), "label": kind}, splits)


def load(folder: Path | None, kind: ClientKind = ClientKind.TEXT, **options: Any) -> ClientData:
    return load_client_data("huggingface", folder, kind, options)


# -- what is read ----------------------------------------------------------------------------------------------------


def test_images_are_decoded_from_their_own_bytes_with_the_names_of_their_classes(tmp_path: Path) -> None:
    data = load(images(tmp_path / "set"), ClientKind.IMAGE)
    assert data.labels == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]
    for index, expected in enumerate(pictures(4)):
        np.testing.assert_array_equal(data.train.images[index], np.asarray(expected))  # type: ignore[union-attr]
    assert survey(data).report.problems() == ()
    assert pickle.loads(pickle.dumps(data.train)).images[1].tolist() == data.train.images[1].tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ((1, 0, 1, 0), CLASSES, ("cat", "dog")),
        ((7, 12, 7, 12), hf.Value("int32"), ("7", "12")),
        (("b", "a", "b", "a"), hf.Value("string"), ("a", "b")),
        ((True, False, True, False), hf.Value("bool"), ("False", "True")),
    ],
)
def test_labels_become_classes_by_their_kind(tmp_path: Path, labels: Any, kind: Any, names: tuple[str, ...]) -> None:
    data = load(texts(tmp_path / "set", labels, kind))
    assert data.labels == names
    assert data.train.labels.tolist() == [1, 0, 1, 0] if labels[0] != 7 else [0, 1, 0, 1]  # type: ignore[union-attr]
    assert list(data.test.texts) == [f"text {n}" for n in range(4)]  # type: ignore[union-attr]


@pytest.mark.parametrize("captions", [[["a cat", "  "], ["a dog", "one more"]], ["a cat", "a dog"]])
def test_pairs_have_a_caption_or_a_list_of_them_and_serve_as_a_public_set(tmp_path: Path, captions: Any) -> None:
    kind = hf.Value("string") if isinstance(captions[0], str) else hf.List(hf.Value("string"))
    folder = tmp_path / "set"
    parts = {}
    for number, split in enumerate(SPLITS):
        columns = {"photo": pictures(2, 9 * number), "said": captions, "id": [2 * number, 2 * number + 1]}
        features = hf.Features({"photo": hf.Image(), "said": kind, "id": hf.Value("int64")})
        parts[split] = hf.Dataset.from_dict(columns, features=features)
    hf.DatasetDict(parts).save_to_disk(str(folder))
    options = {"image_column": "photo", "caption_column": "said"}
    found = load_public_data("huggingface", folder, options)
    assert found["train"].captions[0] == ("a cat",)
    assert found["test"].ids == ("4", "5")
    pairs = load(folder, ClientKind.PAIR, **options)
    assert (pairs.kind, len(pairs.val)) == (ClientKind.PAIR, 2)


def test_a_set_saved_alone_is_train_and_the_rest_is_cut_from_it_by_class(tmp_path: Path) -> None:
    columns = {"text": [f"text {n}" for n in range(40)], "label": [0, 1, 1, 1] * 10}
    features = hf.Features({"text": hf.Value("string"), "label": CLASSES})
    hf.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "set"))
    options: dict[str, Any] = {"val_fraction": 0.2, "test_fraction": 0.1}
    data = load(tmp_path / "set", **options)
    assert [len(each) for each in (data.train, data.val, data.test)] == [28, 8, 4]
    assert np.bincount(data.val.labels).tolist() == [2, 6]  # type: ignore[union-attr]
    assert not {*data.train.texts} & {*data.val.texts, *data.test.texts}  # type: ignore[union-attr]
    assert fingerprint_of(data) == fingerprint_of(load(tmp_path / "set", **options))
    assert fingerprint_of(data) != fingerprint_of(load(tmp_path / "set", **options, split_seed=1))
    assert "no split val: 8 of 40 samples of train are it" in data.listing.notes[0]


def test_a_folder_of_parquet_files_is_read_as_by_parquet(tmp_path: Path) -> None:
    for split in SPLITS:
        made = hf.load_from_disk(str(texts(tmp_path / f"saved-{split}", splits=(split,))))[split]
        (tmp_path / "files" / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(str(tmp_path / "files" / "data" / f"{split}-00000-of-00001.parquet"))
    ours, theirs = load(tmp_path / "files"), load_client_data("parquet", tmp_path / "files", ClientKind.TEXT)
    assert fingerprint_of(ours) == fingerprint_of(theirs)
    assert ours.labels == ("cat", "dog")


def test_what_the_hubs_loader_makes_is_read_and_pictures_in_its_cache_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader takes a folder as it takes a repository of the hub, which cannot be reached here."""
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in SPLITS:
        for number, name in enumerate(("cat", "dog")):
            place = tmp_path / "loose" / split / name
            place.mkdir(parents=True)
            for picture in pictures(2, 50 * number):
                picture.save(place / f"{picture.getpixel((0, 0))[0]}.png")  # type: ignore[index]
    data = load(None, ClientKind.IMAGE, id=str(tmp_path / "loose"))
    assert (data.labels, len(data.train)) == (("cat", "dog"), 4)
    assert data.train.images[0][0, 0].tolist() == [0, 0, 0]  # type: ignore[union-attr]
    assert set(hub_set(str(tmp_path / "loose"), None, None)) == set(SPLITS)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8), min_size=2, max_size=8))
def test_any_texts_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any") / "set"
    columns: dict[str, list[Any]] = {"text": said, "label": [n % 2 for n in range(len(said))]}
    saved(folder, columns, {"text": hf.Value("string"), "label": CLASSES})
    if not all(map(is_visible, said)):
        with pytest.raises(DataError, match="holds no text, but a blank"):
            load(folder)
        return
    assert list(load(folder).train.texts) == said  # type: ignore[union-attr]


def test_agent_init_sees_a_saved_set(tmp_path: Path) -> None:
    found = propose(images(tmp_path / "set"))
    assert (found.adapter, found.kind) == ("huggingface", ClientKind.IMAGE)
    assert propose(texts(tmp_path / "texts")).kind is ClientKind.TEXT


def test_no_torch_is_imported(tmp_path: Path) -> None:
    folder = texts(tmp_path / "set")
    code = (
        "import sys; from pathlib import Path; from fedafd.datasets import load_client_data;"
        "from fedafd.domain.kinds import ClientKind;"
        f"load_client_data('huggingface', Path({str(folder)!r}), ClientKind.TEXT); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_column": "class"}, r"set/train: no column 'class'; found text, label; options.label_column"),
        ({"text_column": "body"}, r"no column 'body'; found text, label; options.text_column names another"),
        ({"val": "dev"}, r"no split 'dev', which options.val names for val; splits found: train, validation, test"),
        ({"val": "train"}, r"split 'train' is train and held out, too"),
        ({"text_column": "label"}, r"set/train, row 0: column 'label' holds no text, but a number"),
        ({"label_column": "text", "text_column": "label"}, r"holds no text"),
    ],
)
def test_a_wrong_name_is_told_with_the_names_that_there_are(tmp_path: Path, options: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load(texts(tmp_path / "set"), **options)


def test_an_absent_split_is_told_with_those_that_there_are_and_the_way_out(tmp_path: Path) -> None:
    folder = texts(tmp_path / "set", splits=("train", "test"))
    with pytest.raises(DataError, match=r"no split for val; splits found: train, test; set options.val .*val_fraction"):
        load(folder)
    assert len(load(folder, val_fraction=0.5).val) == 2
    with pytest.raises(DataError, match="splits validation, dev could be val; set options.val"):
        load(texts(tmp_path / "two", splits=("train", "validation", "dev", "test")))


@pytest.mark.parametrize(("column", "kind"), [("label", "int64"), ("text", "string")])
def test_a_column_that_holds_no_pictures_is_told_with_its_type(tmp_path: Path, column: str, kind: str) -> None:
    with pytest.raises(DataError, match=rf"column '{column}' is of type {kind}; must be Image, or hold a file's bytes"):
        load(texts(tmp_path / "set"), ClientKind.IMAGE, image_column=column)


def test_labels_that_are_none_are_told_by_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: column 'label' has an empty cell"):
        load(texts(tmp_path / "empty", (1, None, 0, 1)))
    with pytest.raises(DataError, match="row 0: column 'label' is -1, which stands for unlabelled"):
        load(texts(tmp_path / "unlabelled", (-1, -1, -1, -1)))
    with pytest.raises(DataError, match="labels must be whole numbers, text or booleans"):
        load(texts(tmp_path / "lists", ([[1]], [[0]]), hf.List(hf.List(hf.Value("int64")))))


def test_a_picture_that_is_only_a_path_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(pictures(1)[0]))
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2
    columns: dict[str, list[Any]] = {"image": rows, "label": [0, 1]}
    kind = {"bytes": hf.Value("binary"), "path": hf.Value("string")}
    data = load(saved(tmp_path / "set", columns, {"image": kind, "label": CLASSES}), ClientKind.IMAGE)
    with pytest.raises(DataError, match=r"row 0 holds only the path '.*' of a picture, not its content"):
        data.train.images[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["../other/data-00000-of-00001.arrow", "/etc/passwd", "link.arrow", "none.arrow"])
def test_a_saved_set_is_read_to_its_own_files_only(tmp_path: Path, name: str) -> None:
    texts(tmp_path / "other", splits=("train",))
    folder = texts(tmp_path / "set", splits=("train",)) / "train"
    (folder / "link.arrow").symlink_to(tmp_path / "other" / "train" / "data-00000-of-00001.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="leaves the folder|link out of the data's folder|no such file"):
        saved_set(tmp_path / "set")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset_dict.json", "{}"),
        ("dataset_dict.json", '{"splits": ["../other"]}'),
        ("train/state.json", "[]"),
        ("train/dataset_info.json", "{"),
        ("train/data-00000-of-00001.arrow", "no arrow"),
    ],
)
def test_a_damaged_set_is_told_by_its_place(tmp_path: Path, file: str, content: str) -> None:
    folder = texts(tmp_path / "set")
    (folder / file).write_text(content)
    with pytest.raises(DataError, match=str(folder)):
        load(folder)


def test_neither_folder_nor_id_or_both_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[Path | None, dict[str, Any]]] = [(None, {}), (tmp_path, {"id": "owner/name"})]
    for path, options in cases:
        with pytest.raises(ConfigurationError, match="set data.path to a folder, or data.options.id"):
            load(path, **options)
    with pytest.raises(DataError, match="no data set that save_to_disk left .* and no Parquet files"):
        load(tmp_path)
    with pytest.raises(ConfigurationError, match=r"data.options.val_fraction is 2; must be above 0 and below 1"):
        load(tmp_path, val_fraction=2)


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"^data set nobody/nothing: cannot be loaded: [^\n]+$"):
        load(None, id="nobody/nothing")
