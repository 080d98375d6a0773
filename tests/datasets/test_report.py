"""The report counts what is there, collects what is wrong, and says both by name."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.datasets.makers import ag_news, image_folder, karpathy, picture

from fedafd.datasets import load_client_data
from fedafd.datasets.fingerprint import fingerprint_of
from fedafd.datasets.listing import LeftOutReason, Listing, left_out
from fedafd.datasets.repeats import without
from fedafd.datasets.report import survey
from fedafd.datasets.samples import ClientData, ImageSplit, TextSplit
from fedafd.datasets.shapes import ShapesOptions, client_data
from fedafd.domain.kinds import ClientKind

SMALL = ShapesOptions(num_train=30, num_val=20, num_test=20, image_size=16)


def labelled(texts: dict[str, Sequence[tuple[str, int]]], names: tuple[str, ...] = ("a", "b")) -> ClientData:
    made = {
        split: TextSplit([text for text, _ in rows], np.array([label for _, label in rows], dtype=np.int64))
        for split, rows in texts.items()
    }
    return ClientData(ClientKind.TEXT, made["train"], made["val"], made["test"], names)


OTHERS: dict[str, Sequence[tuple[str, int]]] = {"val": [("v", 0), ("w", 1)], "test": [("t", 0), ("u", 1)]}


@pytest.mark.parametrize("kind", ClientKind)
def test_good_data_have_no_problem_and_count_right(kind: ClientKind) -> None:
    data = client_data(kind, SMALL)
    report = survey(data).report
    assert report.problems() == ()
    assert report.counts == {"train": 30, "val": 20, "test": 20}
    for place, name in enumerate(data.labels):
        assert report.classes[name]["train"] == sum(label == place for label in data.train.labels)  # type: ignore[union-attr]
    assert report.fingerprint.value == fingerprint_of(data)
    assert (report.images is None) == (kind is ClientKind.TEXT)
    assert (report.texts is None) == (kind is ClientKind.IMAGE)


def test_every_broken_picture_is_counted_and_named_with_its_reason(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, splits=True)
    for broken in ("train/cat/0.png", "train/dog/3.png", "test/cat/2.png"):
        (folder / broken).write_bytes(picture(1)[:40])
    report = survey(load_client_data("image-folder", folder, ClientKind.IMAGE)).report
    assert report.unreadable.count == 3
    assert {Path(each.name).relative_to(folder).as_posix() for each in report.unreadable.first} == {
        "train/cat/0.png",
        "train/dog/3.png",
        "test/cat/2.png",
    }
    assert all(
        each.name not in each.reason and "not a readable image" in each.reason for each in report.unreadable.first
    )
    (problem,) = report.problems()
    assert "3 samples cannot be read" in problem
    assert str(folder / "train" / "cat" / "0.png") in problem


def test_a_picture_that_went_away_is_unreadable_and_stops_nothing(tmp_path: Path) -> None:
    data = load_client_data("image-folder", image_folder(tmp_path, splits=True), ClientKind.IMAGE)
    (tmp_path / "train" / "cat" / "0.png").unlink()
    assert survey(data).report.unreadable.count == 1


def test_the_first_unreadable_ones_are_named_up_to_a_bound(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, splits=True, per_class=30)
    for path in (folder / "train" / "cat").iterdir():
        path.write_bytes(b"")
    unreadable = survey(load_client_data("image-folder", folder, ClientKind.IMAGE)).report.unreadable
    assert (unreadable.count, len(unreadable.first)) == (30, 20)


def test_an_adapter_of_somebody_else_that_fails_in_its_own_way_is_told_by_sample() -> None:
    class Odd(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise RuntimeError("scanner offline")
            return np.full((9, 9, 3), index, dtype=np.uint8)

    split = ImageSplit(Odd(range(4)), np.array([0, 1, 0, 1]))
    report = survey(ClientData(ClientKind.IMAGE, split, split, split, ("a", "b"))).report
    assert (report.unreadable.first[0].name, report.unreadable.first[0].reason) == (
        "sample 2",
        "RuntimeError: scanner offline",
    )


def test_the_same_picture_in_two_formats_is_a_repeat(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, splits=True)
    again = io.BytesIO()
    Image.open(folder / "train" / "cat" / "0.png").save(again, format="BMP")
    (folder / "test" / "cat" / "again.bmp").write_bytes(again.getvalue())
    for split, seed in (("val", 100), ("test", 200)):
        for number, path in enumerate(sorted((folder / split).rglob("*.png"))):
            path.write_bytes(picture(seed + number))
    found = survey(load_client_data("image-folder", folder, ClientKind.IMAGE))
    assert found.report.repeats.across == {"train/test": 1}
    assert found.report.repeats.within == {}
    ((one, other),) = found.report.repeats.first
    assert one.endswith("0.png") and other.endswith("again.bmp")
    assert any("1 sample of split train is also in split test" in text for text in found.report.warnings())


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({s: st.lists(st.sampled_from("abcdef"), max_size=8) for s in ("train", "val", "test")}))
def test_repeats_are_those_of_a_slow_count(texts: dict[str, list[str]]) -> None:
    data = labelled({split: [(text, ord(text) % 2) for text in rows] for split, rows in texts.items()})
    found = survey(data)
    within = {split: len(rows) - len(set(rows)) for split, rows in texts.items()}
    assert found.report.repeats.within == {split: count for split, count in within.items() if count}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert found.report.repeats.across.get(f"{one}/{other}", 0) == sum(t in texts[other] for t in texts[one])
    elsewhere = {*texts["val"], *texts["test"]}
    assert [texts["train"][at] for at in found.repeated_in_train] == [t for t in texts["train"] if t in elsewhere]
    kept = without(data, found.repeated_in_train)
    assert list(kept.train.texts) == [t for t in texts["train"] if t not in elsewhere]  # type: ignore[union-attr]


def test_white_space_makes_no_other_text() -> None:
    data = labelled({**OTHERS, "train": [("one  two\n", 0), ("one two", 0), ("Two one", 1)]})
    assert survey(data).report.repeats.within == {"train": 1}


def test_equal_content_under_two_classes_is_told() -> None:
    report = survey(labelled({**OTHERS, "train": [("same", 0), ("same", 1), ("other", 0)]})).report
    assert report.repeats.conflicting == 1
    assert "equal content stands under different classes: once" in report.warnings()


def test_ids_that_come_again_in_another_split_are_counted(tmp_path: Path) -> None:
    data = load_client_data("flickr", karpathy(tmp_path), ClientKind.PAIR)
    twice = replace(data, test=replace(data.test, ids=tuple(data.train.ids[:2])))  # type: ignore[union-attr,arg-type]
    assert survey(data).report.repeats.ids == 0
    assert survey(twice).report.repeats.ids == 2


def test_classes_that_lack_samples_are_named() -> None:
    report = survey(labelled({**OTHERS, "train": [("x", 0), ("y", 0)]}, ("a", "b", "c"))).report
    assert report.untrained == ("b", "c")
    assert any("no training sample in classes b, c" in text for text in report.warnings())
    assert "all training samples are of one class, a" in report.warnings()


@pytest.mark.parametrize(
    ("texts", "names", "words"),
    [
        ({"train": []}, ("a", "b"), "no training sample"),
        ({"train": [("x", 0)]}, ("a", "b"), "1 training sample"),
        ({"train": [("x", 0), ("y", 0)], "val": [("v", 0)], "test": [("t", 0)]}, ("a",), r"classes: 1 \(a\)"),
        ({"train": [("x", 0), ("y", 1)], "val": []}, ("a", "b"), "split val has no sample"),
        ({"train": [("x", 0), ("y", 1)], "test": []}, ("a", "b"), "split test has no sample"),
    ],
)
def test_data_that_cannot_be_used_say_why(texts: dict[str, Any], names: tuple[str, ...], words: str) -> None:
    problems = survey(labelled({**OTHERS, **texts}, names)).report.problems()
    assert any(re.search(words, problem) for problem in problems)


def test_pictures_of_several_frames_are_told(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, splits=True)
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "train" / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    report = survey(load_client_data("image-folder", folder, ClientKind.IMAGE)).report
    assert report.images is not None and report.images.several_frames == 1
    assert "images of several frames or pages, of which the first is read: 1" in report.warnings()
    assert report.unreadable.count == 0


def test_sizes_colours_and_blank_pictures_are_told(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, splits=True)
    Image.new("RGB", (3, 40), (9, 9, 9)).save(folder / "train" / "cat" / "blank.png")
    Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50).astype(np.uint8)).save(
        folder / "train" / "cat" / "grey.png"
    )
    report = survey(load_client_data("image-folder", folder, ClientKind.IMAGE)).report
    assert report.images is not None
    assert (report.images.smallest, report.images.largest) == ((3, 40), (50, 40))
    assert report.images.largest_name.endswith("grey.png")
    assert (report.images.grey, report.images.blank) == (2, 1)
    assert "images of a single colour: 1" in report.warnings()


def test_lengths_of_texts_are_smallest_median_and_largest(tmp_path: Path) -> None:
    data = labelled({"train": [("one", 0), ("one two three", 1)], "val": [("four words stand here", 0)], "test": []})
    texts = survey(data).report.texts
    assert texts is not None
    assert (texts.count, texts.words, texts.characters) == (3, (1, 3, 4), (3, 13, 21))


def test_warnings_are_bounded() -> None:
    report = survey(client_data(ClientKind.TEXT, SMALL)).report
    many = replace(report, repeats=replace(report.repeats, within={f"split{n}": 1 for n in range(100)}))
    warnings = many.warnings()
    assert len(warnings) == 21
    assert warnings[-1].startswith("and ")


@pytest.mark.parametrize(("heic", "told"), [(60, True), (1, False)])
def test_many_files_left_out_that_may_be_data_are_a_warning(heic: int, told: bool) -> None:
    data = client_data(ClientKind.IMAGE, SMALL)
    left = left_out(LeftOutReason.EXTENSION, [(".heic", f"{n}.heic") for n in range(heic)])
    hidden = left_out(LeftOutReason.HIDDEN, [("._*", f"._{n}") for n in range(100)])
    listing = Listing(files_seen=300, files_read=100, left_out=(*left, *hidden))
    warnings = survey(replace(data, listing=listing)).report.warnings()
    assert any(f"{heic} of 300 files are not read" in text for text in warnings) == told


def test_the_report_is_json_with_a_version(tmp_path: Path) -> None:
    for data in (client_data(kind, SMALL) for kind in ClientKind):
        values = json.loads(json.dumps(survey(data).report.to_dict()))
        assert values["version"] == 1
        assert values["fingerprint"] == fingerprint_of(data)
        assert {"counts", "classes", "unreadable", "repeats", "listing", "problems", "warnings"} <= set(values)


def test_progress_hears_every_sample_and_may_stop_the_look(tmp_path: Path) -> None:
    data = load_client_data("ag-news", ag_news(tmp_path), ClientKind.TEXT)
    heard: list[tuple[int, int]] = []
    survey(data, progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (60, 60)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(data, progress=stop)
