"""Text files from real life: line ends, encodings, names in any script, escapes, and classes without samples."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets import makers

from fedafd.datasets import ClientData, TextSplit, load_client_data
from fedafd.datasets.csv_files import LONGEST_TEXT
from fedafd.datasets.texts import decoded, is_visible, lines_of, normal_name, sound_text
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1, max_size=12)


def load(folder: Path, **options: object) -> ClientData:
    return load_client_data("ag-news", folder, ClientKind.TEXT, options)


def texts(folder: Path, **options: object) -> list[str]:
    train = load(folder, **options).train
    assert isinstance(train, TextSplit)
    return list(train.texts)


def write_classes(folder: Path, *names: str, end: str = "\n") -> Path:
    (folder / "classes.txt").write_bytes((end.join(names) + end).encode())
    return folder


def write_rows(path: Path, *rows: tuple[object, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=2, max_size=2), end=st.sampled_from(["\n", "\r\n"]))
def test_class_names_of_any_script_are_read_as_one_line_each_in_nfc(tmp_path: Path, names: list[str], end: str) -> None:
    normal = [unicodedata.normalize("NFC", name).strip() for name in names]
    if not all(map(is_visible, normal)) or len(set(normal)) < 2 or names[0].startswith("\ufeff"):
        return
    makers.ag_news(tmp_path)
    assert load(write_classes(tmp_path, *names, end=end)).labels == tuple(normal)


@pytest.mark.parametrize("inner", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\u00a0"])
def test_only_lf_and_crlf_end_a_line(tmp_path: Path, inner: str) -> None:
    makers.ag_news(tmp_path)
    assert load(write_classes(tmp_path, f"World{inner}News", "Sports")).labels == (f"World{inner}News", "Sports")
    write_rows(tmp_path / "train.csv", (1, f"a{inner}b", "c"), (2, "d", f"e{inner}"))
    assert texts(tmp_path) == [" ".join(f"a{inner}b c".split()), "d e"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"World\rSports\n", r"classes.txt:1: has a carriage return alone; lines must end at LF or CRLF"),
        (b"World\nSports\r\r\n", r"classes.txt:2: has a carriage return alone"),
        (b"World\nSpo\0rts\n", r"classes.txt:2: holds a NUL character"),
        ("World\nSports\n".encode("utf-16"), r"classes.txt:1: is UTF-16; save the file as UTF-8"),
        ("World\nSports\n".encode("utf-32"), r"classes.txt:1: is UTF-32"),
        ("World\nSports\n".encode("utf-16-be"), r"classes.txt:1: holds a NUL"),
        (b"World\n\xed\xa0\xbd\n", r"classes.txt:2: not UTF-8"),
        ("Caf\u00e9\nCafe\u0301\n".encode(), r"classes.txt: 'Café' occur twice"),
    ],
)
def test_class_files_that_are_not_text_say_the_line(tmp_path: Path, content: bytes, match: str) -> None:
    makers.ag_news(tmp_path)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=match):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'"1","a","b"\r"2","c","d"\r', r"train.csv:1: has a carriage return alone; lines must end at LF or CRLF"),
        (b'"1","a","b"\n"2","c\0","d"\n', r"train.csv:2: holds a NUL character"),
        ('"1","a","b"\n'.encode("utf-16"), r"train.csv:1: is UTF-16"),
        (b'"1","a","b"\n"2","c\nd\ne', r"train.csv:2: not readable as CSV: unexpected end of data"),
        (b"1;a;b\n2;c;d\n", r"train.csv:1: its fields are parted by semicolons; .*with commas between"),
    ],
)
def test_rows_that_are_not_text_say_the_line_at_which_they_start(tmp_path: Path, content: bytes, match: str) -> None:
    makers.ag_news(tmp_path)
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=match):
        load(tmp_path)


def test_blank_lines_are_skipped_and_told(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    (tmp_path / "train.csv").write_bytes(b'\n"1","a","b"\r\n  \n"2","c","d"\n\n\r\n')
    assert texts(tmp_path) == ["a b", "c d"]
    assert "train.csv: 4 blank lines skipped" in load(tmp_path).listing.notes


def test_a_field_may_hold_quotes_commas_and_line_ends(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    write_rows(tmp_path / "train.csv", (1, 'say "a", b', "c\nd\r\ne\rf"), (2, "g", ""))
    assert texts(tmp_path) == ['say "a", b c d e f', "g"]


def test_a_text_may_be_as_long_as_the_documentation_says(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    write_rows(tmp_path / "train.csv", (1, "a", "x" * LONGEST_TEXT), (2, "b", "c"))
    assert len(texts(tmp_path)[0]) == LONGEST_TEXT + 2
    write_rows(tmp_path / "train.csv", (2, "b", "c"), (1, "a", "x" * (LONGEST_TEXT + 1)))
    with pytest.raises(DataError, match=r"train.csv:2: a field has more than 16777216 characters; shorten it"):
        load(tmp_path)


def test_escapes_are_read_where_all_classes_are_those_of_ag_news(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    rows = (1, r"C:\temp\new", r"it #39;s &lt;b&gt;"), (2, "plain", "text")
    write_rows(tmp_path / "train.csv", *rows)
    read, kept = "C: temp new it 's <b>", r"C:\temp\new it #39;s &lt;b&gt;"
    assert texts(tmp_path)[0] == texts(tmp_path, unescape=True)[0] == read
    assert texts(tmp_path, unescape=False)[0] == kept
    # One here, and every text of the other two files.
    assert any(note.startswith("AG_NEWS's escapes were read in 41 texts") for note in load(tmp_path).listing.notes)
    assert load(tmp_path, unescape=False).listing.notes == ()
    write_classes(tmp_path, "Radiology", "Surgery")
    assert texts(tmp_path)[0] == texts(tmp_path, unescape=False)[0] == kept
    assert texts(tmp_path, unescape=True)[0] == read


def test_a_class_with_held_out_samples_alone_is_refused_by_name(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    write_classes(tmp_path, "World", "Sports", "Weather", "Opera")
    assert load(tmp_path).labels == ("World", "Sports")
    assert "left out for want of any sample: class 'Weather', 'Opera'" in load(tmp_path).listing.notes
    write_rows(tmp_path / "test.csv", (1, "a", "b"), (4, "c", "d"))
    with pytest.raises(DataError, match=r"no training sample of class 'Opera' \(1 in test\); add some to train"):
        load(tmp_path)


def test_labels_follow_their_names_when_a_class_before_them_is_left_out(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    write_classes(tmp_path, "Opera", "World", "Sports")
    for split in makers.SPLITS:
        write_rows(tmp_path / f"{split}.csv", (3, "sports", ""), (2, "world", ""))
    data = load(tmp_path)
    assert (data.labels, data.test.labels.tolist()) == (("World", "Sports"), [1, 0])  # type: ignore[union-attr]


def test_a_comment_that_would_shift_the_names_is_refused(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    write_classes(tmp_path, "# classes", "World", "Sports")
    with pytest.raises(DataError, match=r"classes.txt: '# classes' is read as the name of a class, .*remove the line"):
        load(tmp_path)
    assert load(write_classes(tmp_path, "#metoo", "#mars")).labels == ("#metoo", "#mars")


def test_one_row_or_one_class_is_refused_at_load(tmp_path: Path) -> None:
    makers.ag_news(tmp_path, val=False)
    write_rows(tmp_path / "train.csv", (1, "a", "b"))
    with pytest.raises(DataError, match=r"train.csv: has 1 rows, too few to train on some and validate on others"):
        load(tmp_path)
    for split in makers.SPLITS:
        write_rows(tmp_path / f"{split}.csv", (1, "a", "b"), (1, "c", "d"))
    with pytest.raises(DataError, match=r"needs samples of two or more classes, found 1: 'World'"):
        load(tmp_path)


def test_without_val_csv_every_class_is_validated_and_the_cut_is_told(tmp_path: Path) -> None:
    makers.ag_news(tmp_path, val=False)
    write_rows(tmp_path / "train.csv", *((1 if n < 60 else 2, f"t{n}", "") for n in range(70)))
    data = load(tmp_path)
    assert np.bincount(data.val.labels).tolist() == [6, 1]  # type: ignore[union-attr]
    assert np.bincount(data.train.labels).tolist() == [54, 9]  # type: ignore[union-attr]
    assert list(data.val.texts) == list(load(tmp_path).val.texts)  # type: ignore[union-attr]
    assert list(data.val.texts) != list(load(tmp_path, split_seed=1).val.texts)  # type: ignore[union-attr]
    assert len(load(tmp_path, val_fraction=0.5).val) == 35
    for wrong in ({"val_fraction": 1}, {"val_fraction": 0}, {"split_seed": -1}):
        with pytest.raises(ConfigurationError, match=f"data.options.{next(iter(wrong))} is "):
            load(tmp_path, **wrong)
    assert any(note.startswith("no val.csv: 7 of 70 rows of train.csv") for note in data.listing.notes)


def test_the_listing_names_what_was_not_read(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    for name in ("train_old.csv", "._train.csv", "notes.docx"):
        (tmp_path / name).write_bytes(b"x")
    listing = load(tmp_path).listing
    assert (listing.source, listing.files_seen, listing.files_read) == (str(tmp_path), 7, 4)
    assert {(each.reason.value, each.examples) for each in listing.left_out} == {
        ("unused", ("train_old.csv",)),
        ("hidden", ("._train.csv",)),
        ("extension", ("notes.docx",)),
    }


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_characters="\r\n"), max_size=30))
def test_text_is_sound_exactly_if_it_can_be_written_as_utf8_without_a_nul(text: str) -> None:
    try:
        good = b"\0" not in text.encode()
    except UnicodeEncodeError:
        good = False
    if good:
        assert sound_text(text, "x") == text
        assert lines_of(decoded(b"\xef\xbb\xbf" + text.encode(), "x"), "x") == [text]
    else:
        with pytest.raises(DataError, match=r"^file, row 3: holds (a NUL|half a character)"):
            sound_text(text, "file, row 3")


def test_a_name_is_not_empty() -> None:
    assert normal_name(" Cafe\u0301 ", "x") == "Caf\u00e9"
    with pytest.raises(DataError, match=r"^x: a class has an empty name"):
        normal_name(" \u2003", "x")


@pytest.mark.parametrize("name", ["val.csv", "valid.csv", "validation.csv", "dev.csv", "Valid.CSV"])
def test_the_validation_split_is_read_from_a_file_of_any_usual_name(tmp_path: Path, name: str) -> None:
    makers.ag_news(tmp_path)
    content = (tmp_path / "val.csv").read_bytes()
    (tmp_path / "val.csv").unlink()
    cut = load(tmp_path)
    (tmp_path / name).write_bytes(content + b"\n\n")
    data = load(tmp_path)
    assert len(data.train) > len(cut.train)
    assert len(data.val) == len(content.splitlines())
    assert not data.listing.left_out
    assert next(note for note in data.listing.notes if "blank" in note).startswith(f"{name}: 2 blank")
    assert not any(note.startswith("no val.csv") for note in data.listing.notes)


def test_two_files_for_validation_are_refused_by_name(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    (tmp_path / "dev.csv").write_bytes((tmp_path / "val.csv").read_bytes())
    with pytest.raises(DataError, match=r"dev\.csv, val\.csv are all files for validation"):
        load(tmp_path)


def test_a_folder_in_place_of_the_validation_file_is_refused(tmp_path: Path) -> None:
    makers.ag_news(tmp_path)
    (tmp_path / "val.csv").unlink()
    (tmp_path / "valid.csv").mkdir()
    with pytest.raises(DataError, match=r"valid\.csv"):
        load(tmp_path)
