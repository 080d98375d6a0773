"""`fedafd search` finds what matches best for the model; its index follows the folder and is never silently old."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.learning.tiny import personalized_folder, tiny_global, tiny_public, write_files
from typer.testing import CliRunner, Result

from fedafd import GlobalModel
from fedafd.cli.main import app
from fedafd.domain.errors import DataError, FedafdError, InvalidRequestError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.loaded_model import LoadedModel
from fedafd.learning.loading import load_model
from fedafd.learning.search_index import SearchIndex

CAPTION = "two red dogs"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    write_files(tiny_global(), root / "global")
    for kind in (ClientKind.PAIR, ClientKind.TEXT):
        personalized_folder(kind, root / kind.value)
    return root


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/c.png", "more/d.png")):
        Image.fromarray(tiny_public()["train"].images[number]).save(folder / name)
    return folder


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that a model was asked to embed."""
    asked: list[str] = []
    real = LoadedModel.each_embedded

    def spy(self: LoadedModel, modality: Any, samples: Any, on_bad: Any = None) -> Any:
        asked.extend(path.name for path in samples if isinstance(path, Path))
        return real(self, modality, samples, on_bad)

    monkeypatch.setattr(LoadedModel, "each_embedded", spy)
    return asked


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["search", *map(str, arguments), "--device", "cpu"])


def hits(result: Result) -> list[tuple[str, float]]:
    assert result.exit_code == 0, (result.output, result.exception)
    (line,) = result.stdout.splitlines()
    return [(Path(hit["name"]).name, hit["likeness"]) for hit in json.loads(line)["hits"]]


@pytest.mark.parametrize("kind", ["global", "pair"])
def test_a_caption_finds_the_best_matching_pictures(models: Path, pictures: Path, kind: str) -> None:
    arguments = (models / kind, CAPTION, "--images", pictures, "--index", pictures.parent / "index")
    found = hits(ask(*arguments, "--json"))
    model = load_model(models / kind, device="cpu")
    paths = sorted(pictures.rglob("*.png"))
    likeness = model.embed_images(paths) @ model.embed_texts([CAPTION])[0]
    expected: list[tuple[str, Any]] = [
        (paths[i].name, pytest.approx(likeness[i], abs=1e-5)) for i in np.argsort(-likeness)
    ]
    assert found == expected
    assert len(hits(ask(*arguments, "--json", "--top-k", 2))) == 2
    assert ask(*arguments).stdout.splitlines()[0].split("\t")[1].endswith(found[0][0])


def test_a_picture_finds_texts(models: Path, pictures: Path, tmp_path: Path) -> None:
    texts = ["two red dogs", "a cow", "eine Kuh, 牛"]
    (tmp_path / "t.txt").write_text("\n\n".join(texts), encoding="utf-8")
    found = hits(ask(models / "global", pictures / "a.png", "--texts", tmp_path / "t.txt", "--json"))
    model = GlobalModel.from_pretrained(models / "global", device="cpu")
    likeness = model.embed_texts(texts) @ model.embed_images([pictures / "a.png"])[0]
    assert [name for name, _ in found] == [texts[i] for i in np.argsort(-likeness)]


def test_only_what_is_new_or_changed_is_embedded_and_nothing_old_is_found(
    models: Path, pictures: Path, tmp_path: Path, embedded: list[str]
) -> None:
    def search() -> dict[str, float]:
        embedded.clear()
        arguments = (models / "global", CAPTION, "--images", pictures, "--index", tmp_path / "index", "--json")
        return dict(hits(ask(*arguments, "--top-k", 99)))

    first = search()
    assert sorted(embedded) == ["a.png", "b.png", "c.png", "d.png"]
    assert search() == first
    assert embedded == []
    # A new name for what was seen, and a file that is gone.
    (pictures / "a.png").rename(pictures / "z.png")
    (pictures / "more" / "d.png").unlink()
    assert search() == {"z.png": first["a.png"], "b.png": first["b.png"], "c.png": first["c.png"]}
    assert embedded == []
    # Other content under an old name, with the size and time of before.
    stat = (pictures / "b.png").stat()
    content = (pictures / "more" / "c.png").read_bytes()
    (pictures / "b.png").write_bytes(content + b"\0" * (stat.st_size - len(content)))
    os.utime(pictures / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert search()["b.png"] == pytest.approx(first["c.png"], abs=1e-5)
    assert embedded in ([], ["b.png"])


def test_another_model_gets_rows_of_its_own(models: Path, pictures: Path, tmp_path: Path, embedded: list[str]) -> None:
    for kind in ("global", "pair", "global"):
        embedded.clear()
        ask(models / kind, CAPTION, "--images", pictures, "--index", tmp_path / "index", "--json")
        assert len(embedded) == 4


def test_a_damaged_index_is_made_anew(models: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = (models / "global", CAPTION, "--images", pictures, "--index", tmp_path / "index", "--json")
    first = hits(ask(*arguments))
    (file,) = (tmp_path / "index").iterdir()
    for content in (b"", b"no index", file.read_bytes()[:-9]):
        file.write_bytes(content)
        assert hits(ask(*arguments)) == first


def test_a_folder_that_cannot_be_written_to_is_searched_nevertheless(
    models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(pictures.rglob("*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = hits(ask(models / "global", CAPTION, "--images", pictures, "--json"))
    assert sorted(pictures.rglob("*")) == before
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    # No cache folder either: the index is not kept, and that is said.
    (tmp_path / "file").write_text("")
    result = ask(models / "global", CAPTION, "--images", pictures, "--json", "--index", tmp_path / "file" / "index")
    assert hits(result) == first
    assert "the index is not kept" in result.stderr


def test_a_picture_that_cannot_be_read_is_named_and_left_out(models: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (pictures / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(pictures / "pipe.png")
    for _ in range(2):
        result = ask(models / "global", CAPTION, "--images", pictures, "--index", tmp_path / "index", "--json")
        assert len(hits(result)) == 4
        for name in ("broken.jpg", "gone.png", "pipe.png"):
            assert f"left out: {pictures / name}" in result.stderr


def test_rows_are_those_of_the_content_whatever_the_order(tmp_path: Path) -> None:
    """The same files, seen by an index that grew and by one that is new, have the same rows."""
    paths = [tmp_path / f"{number}.bin" for number in range(12)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number % 5]))

    def embed(given: Any, _: Any) -> Any:
        return ((place, np.full(3, path.read_bytes()[0], np.float32)) for place, path in enumerate(given))

    def never(path: Path, error: DataError) -> None:
        raise AssertionError(path)

    grown = SearchIndex(tmp_path / "index", "key", 3)
    for count in (3, 12, 7, 12):
        grown = SearchIndex(tmp_path / "index", "key", 3)
        kept, rows = grown.update(paths[:count], embed, never)
        grown.save()
        assert kept == paths[:count]
        assert [int(row[0]) for row in rows] == [number % 5 for number in range(count)]
    assert grown.added == 0


def test_what_cannot_search_is_said_in_one_line(models: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    for arguments, words in (
        ((models / "text", CAPTION, "--images", pictures), "is a model of kind text"),
        ((models / "global", CAPTION), "nothing was given"),
        ((models / "global", CAPTION, "--images", pictures, "--texts", tmp_path / "t"), "--images and --texts"),
        ((models / "global", CAPTION, "--images", tmp_path / "empty"), "holds no pictures"),
        ((models / "global", CAPTION, "--images", tmp_path / "nowhere"), "no such folder"),
        ((models / "global", pictures / "a.png", "--texts", tmp_path / "empty.txt"), "holds no text"),
        ((models / "global", pictures / "x.png", "--texts", tmp_path / "empty.txt"), "x.png: no such file"),
        ((tmp_path / "empty", CAPTION, "--images", pictures), "not a model folder"),
    ):
        result = ask(*arguments)
        assert isinstance(result.exception, FedafdError), (arguments, result.exception)
        assert words in str(result.exception)
        assert "\n" not in str(result.exception)
    assert isinstance(ask(models / "global", CAPTION).exception, InvalidRequestError)


def test_an_index_of_a_folder_that_was_replaced_is_followed(models: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = (models / "global", CAPTION, "--images", pictures, "--index", tmp_path / "index", "--json")
    first = dict(hits(ask(*arguments)))
    shutil.copytree(pictures, tmp_path / "copy")
    shutil.rmtree(pictures)
    (tmp_path / "copy").rename(pictures)
    assert dict(hits(ask(*arguments))) == first
