"""`fedafd predict` answers on any input with labels or with one clear line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.learning.tiny import personalized_folder, tiny_global, tiny_private, write_files
from typer.testing import CliRunner, Result

from fedafd import PersonalizedModel
from fedafd.cli.main import app
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import ClientKind


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    for kind in ClientKind:
        personalized_folder(kind, root / kind.value)
    write_files(tiny_global(), root / "global")
    return root


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "more" / ".hidden").mkdir(parents=True)
    images: Any = tiny_private(ClientKind.IMAGE).test
    for number, name in enumerate(("b.png", "a.jpg", "more/c.PPM", "._a.jpg", "more/.hidden/d.png")):
        Image.fromarray(images.images[number]).save(
            folder / name, name.rpartition(".")[2].upper().replace("JPG", "JPEG")
        )
    (folder / "notes.txt").write_text("no picture")
    return folder


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])


def told(result: Result) -> str:
    """The one line that the program ends with for an error of ours."""
    assert isinstance(result.exception, FedafdError), (result.output, result.exception)
    text = str(result.exception)
    assert "\n" not in text
    return text


def test_files_and_folders_are_predicted_in_order(models: Path, pictures: Path) -> None:
    result = ask(models / "image", pictures / "b.png", pictures)
    assert result.exit_code == 0, result.exception
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    names = [pictures / name for name in ("b.png", "a.jpg", "b.png", "more/c.PPM")]
    assert [row[2] for row in rows] == [str(name) for name in names]
    expected = PersonalizedModel.from_pretrained(models / "image", device="cpu").predict(names)
    assert [(row[0], row[1]) for row in rows] == [(label, f"{odds:.3f}") for label, odds in expected]


def test_top_k_as_json_lines(models: Path) -> None:
    result = ask(models / "text", "two red dogs", "eine Kuh, 牛", "--top-k", 3, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["sample"] for answer in answers] == ["two red dogs", "eine Kuh, 牛"]
    for answer in answers:
        odds = [each["probability"] for each in answer["predictions"]]
        assert len(odds) == 3
        assert odds == sorted(odds, reverse=True)


@pytest.mark.parametrize("branch", ["personalized", "own", "global"])
def test_branches_are_those_of_the_model(models: Path, branch: Any) -> None:
    result = ask(models / "text", "two red dogs", "--branch", branch)
    model = PersonalizedModel.from_pretrained(models / "text", device="cpu")
    ((label, odds),) = model.predict(["two red dogs"], branch=branch)
    assert result.stdout == f"{label}\t{odds:.3f}\ttwo red dogs\n"


def test_a_file_of_texts_is_read_line_by_line(models: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("\ufefffirst\r\n\r\nline\u2028separator\n".encode())
    result = ask(models / "text", "--texts", tmp_path / "t.txt", "--json")
    assert [json.loads(line)["sample"] for line in result.stdout.splitlines()] == ["first", "line\u2028separator"]


@pytest.mark.parametrize(("kind", "suffix"), [("text", "csv"), ("image", "csv"), ("text", "tsv")])
def test_a_csv_gets_columns_added(models: Path, pictures: Path, kind: str, suffix: str) -> None:
    values = ["b.png", "more/c.PPM"] if kind == "image" else ['a, "quoted"\ntext', "more"]
    source, target = pictures / f"in.{suffix}", pictures / f"out.{suffix}"
    delimiter = "\t" if suffix == "tsv" else ","
    with source.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([["id", "what"], *([str(n), v] for n, v in enumerate(values))])
    result = ask(models / kind, "--csv", source, "--column", "what", "--output", target, "--top-k", 2)
    assert result.exit_code == 0, result.exception
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    samples: list[Any] = [pictures / v for v in values] if kind == "image" else values
    expected = PersonalizedModel.from_pretrained(models / kind, device="cpu").predict(samples, top_k=2)
    for row, value, ((first, odds), (second, _)) in zip(rows, values, expected, strict=True):
        assert (row["what"], row["predicted"], row["predicted_2"]) == (value, first, second)
        assert float(row["predicted_probability"]) == pytest.approx(odds, abs=1e-5)
    assert "is there already" in told(ask(models / kind, "--csv", source, "--column", "what", "--output", target))
    again = ask(models / kind, "--csv", target, "--column", "what", "--output", target, "--force")
    assert "has a column 'predicted' already" in told(again)
    assert len(target.read_text().splitlines()) >= 3
    assert [path.name for path in pictures.glob(".*.part")] == []


def test_without_an_output_file_a_csv_goes_to_standard_output(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\n" + "word\n" * 300)
    rows = list(csv.reader(io.StringIO(ask(models / "text", "--csv", tmp_path / "in.csv", "--column", "text").stdout)))
    assert len(rows) == 301
    assert rows[0] == ["text", "predicted", "predicted_probability"]
    assert len({tuple(row) for row in rows[1:]}) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"other\nx\n", "has no column named 'text'"),
        (b"text,text\nx,y\n", "has 2 columns named 'text'"),
        (b"id,text\n1,good\n2\n", "in.csv:3: has 1 fields"),
        (b"id,text\n1,caf\xe9\n", "in.csv:2: not UTF-8"),
        (b'id,text\n1,"open\n', "not readable as CSV"),
        (b"id,text\n1,good\n2,\n", "in.csv:3: column 'text' is empty"),
        (b"id,text\n1,nul\0\n", "NUL"),
    ],
    ids=repr,
)
def test_a_csv_that_cannot_be_read_names_the_line(models: Path, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    output = tmp_path / "out.csv"
    result = ask(models / "text", "--csv", tmp_path / "in.csv", "--column", "text", "--output", output)
    assert words in told(result)
    assert not output.exists()


def bomb() -> bytes:
    """A PNG of 196 million pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 14000, 14000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:-200]


BAD: dict[str, Callable[[], bytes]] = {
    "bomb.png": bomb,
    "truncated.jpg": truncated,
    "program.eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "empty.jpg": lambda: b"",
    "page.jpg": lambda: b"<html>404</html>",
}


@pytest.mark.parametrize("name", BAD)
def test_a_picture_that_cannot_be_read_is_named_or_skipped(models: Path, pictures: Path, name: str) -> None:
    bad = pictures / name
    bad.write_bytes(BAD[name]())
    good = pictures / "b.png"
    assert str(bad) in told(ask(models / "image", good, bad))
    result = ask(models / "image", good, bad, good, "--skip-bad", "--json")
    assert result.exit_code == 4
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [("error" in answer, answer["sample"]) for answer in answers] == [
        (False, str(good)),
        (True, str(bad)),
        (False, str(good)),
    ]
    assert f"left out: {bad}" in result.stderr
    assert "1 samples could not be read" in result.stderr


def test_missing_files_empty_folders_and_the_wrong_model_are_said(models: Path, tmp_path: Path) -> None:
    assert "nowhere.png: no such file" in told(ask(models / "image", tmp_path / "nowhere.png"))
    (tmp_path / "empty").mkdir()
    assert "empty: holds no pictures" in told(ask(models / "image", tmp_path / "empty"))
    assert "empty: not a model folder" in told(ask(tmp_path / "empty", "x"))
    assert "use fedafd search" in told(ask(models / "pair", "x"))
    assert "is a fedafd-global model" in told(ask(models / "global", "x"))
    assert "--texts is for models of kind text" in told(ask(models / "image", "--texts", tmp_path / "t.txt"))
    assert "nothing was given" in told(ask(models / "image"))
    assert "go together" in told(ask(models / "text", "--csv", tmp_path / "t.csv"))
    assert "no such file" in told(ask(models / "text", "--texts", tmp_path / "t.txt"))


def test_a_text_that_is_a_files_name_is_noted(models: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a text")
    assert "is read as a text, not as the file" in ask(models / "text", tmp_path / "t.txt").stderr


def run(*arguments: object, code: str = "") -> subprocess.CompletedProcess[bytes]:
    program = f"import sys; {code}\nfrom fedafd.cli.main import main; sys.argv[0] = 'fedafd'; main()"
    command: list[str | bytes] = [sys.executable, "-c", program, *(os.fsencode(str(each)) for each in arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def test_a_text_that_is_not_utf_8_is_one_line_on_the_command_line(models: Path) -> None:
    done = run("predict", models / "text", "caf\udce9")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"text 1" in done.stderr


def test_without_torch_the_extra_to_install_is_said(models: Path) -> None:
    done = run("predict", models / "text", "x", code="sys.modules['torch'] = None")
    assert done.returncode == 2
    assert b"pip install 'fedafd[learning]'" in done.stderr
    assert b"Traceback" not in done.stderr
    code = "import sys; sys.modules['torch'] = None\nfrom fedafd import GlobalModel"
    python = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: fedafd.GlobalModel needs torch" in python.stderr


def test_a_result_never_takes_the_place_of_a_sample(models: Path, pictures: Path) -> None:
    before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    link = pictures / "link.png"
    link.symlink_to(pictures / "b.png")
    for output in (pictures / "b.png", pictures / "more" / ".." / "b.png", link):
        for given in (pictures / "b.png", pictures):
            assert "would be lost" in told(ask(models / "image", given, "--output", output, "--force"))
    texts = pictures / "notes.txt"
    assert "would be lost" in told(ask(models / "text", "--texts", texts, "--output", texts, "--force"))
    table = pictures / "in.csv"
    table.write_text("id,what\n1,word\n")
    itself = ("--csv", table, "--column", "what", "--output", table, "--force")
    assert "would be lost" in told(ask(models / "text", *itself, "--json"))
    assert {path: path.read_bytes() for path in before} == before
    # Over the CSV itself, its rows are kept.
    assert ask(models / "text", *itself).exit_code == 0
    assert table.read_text().startswith("id,what,predicted,predicted_probability\n1,word,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image"], "nothing was given"),
        (["image", "a", "--texts", "t"], "SAMPLES and --texts was given"),
        (["image", "--csv", "x"], "go together"),
        (["image", ""], "is a variable not set"),
        (["image", "{there}/b.png", "--output", "{there}/none/x.txt"], "none/x.txt: cannot be written to"),
        (["image", "{there}/b.png", "--output", "{there}/b.png"], "is there already"),
        (["image", "{there}/b.png", "--delimiter", ";"], "goes with --csv"),
        (["text", "--csv", "{there}/in.csv", "--column", "what", "--delimiter", ";;"], "one character"),
        (["text", "--csv", "{there}/in.csv", "--column", "what"], "no column named 'what'.*--delimiter ';'"),
        (["text", "--csv", "{there}/in.csv", "--column", "no", "--delimiter", ";"], "its columns: 'id', ' what '"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_printed_and_ends_with_2(
    models: Path, pictures: Path, arguments: list[str], words: str
) -> None:
    (pictures / "in.csv").write_text("id; what \n1;word\n")
    kind, *others = (each.format(there=pictures) for each in arguments)
    result = ask(models / kind, *others)
    assert re.search(words, told(result))
    assert getattr(result.exception, "exit_code", None) == 2
    assert result.stdout == ""


def test_columns_may_be_separated_by_something_else(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id;what\n1;"one; word"\n')
    result = ask(models / "text", "--csv", tmp_path / "in.csv", "--column", "what", "--delimiter", ";")
    header, row = csv.reader(io.StringIO(result.stdout), delimiter=";")
    assert header == ["id", "what", "predicted", "predicted_probability"]
    assert row[:2] == ["1", "one; word"]
