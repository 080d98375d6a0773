"""SHA256SUMS of a model folder: what was damaged is refused by name, whoever reads it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.learning.tiny import personalized_folder, tiny_global, write_files
from typer.testing import CliRunner

from fedafd import GlobalModel, PersonalizedModel
from fedafd.cli.main import app
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.model_sums import SUMS, check_sums, read_sums, write_sums

UNREAD = {"README.md", "global/text/preprocessor_config.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    personalized_folder(ClientKind.TEXT, root / "text")
    write_files(tiny_global(), root / "global")
    return root


def flipped(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["text", "global"])
def test_every_file_is_named_with_its_hash(made: Path, name: str) -> None:
    folder = made / name
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    expected = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items() if path != SUMS}
    assert read_sums(folder) == expected
    lines = (folder / SUMS).read_text().splitlines()
    assert lines == [f"{sha256}  {path}" for path, sha256 in sorted(expected.items())]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_of_any_file_that_is_read_is_found(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = shutil.copytree(made / "text", tmp_path_factory.mktemp("copy") / "model")
    name = data.draw(st.sampled_from(sorted(read_sums(folder).keys() - UNREAD)))
    path = folder / name
    flipped(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    with pytest.raises(DataError, match=f"{name}: "):
        PersonalizedModel.from_pretrained(folder, device="cpu")
    shutil.rmtree(folder)


def test_weights_that_still_load_are_refused_with_what_to_do(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "global", tmp_path / "model")
    flipped(folder / "text" / "model.safetensors")
    with pytest.raises(DataError, match=r"text/model\.safetensors: was changed or damaged .* Copy .* or remove .*SUMS"):
        GlobalModel.from_pretrained(folder, device="cpu")
    (folder / SUMS).unlink()
    assert GlobalModel.from_pretrained(folder, device="cpu").dim == 16


def test_the_command_line_tells_it_in_one_line(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "text", tmp_path / "model")
    flipped(folder / "local" / "text" / "model.safetensors")
    done = CliRunner().invoke(app, ["predict", str(folder), "two red dogs"])
    assert isinstance(done.exception, DataError)
    assert str(done.exception).startswith(f"{folder}/local/text/model.safetensors: was changed or damaged")


def test_a_card_may_be_rewritten_and_files_added(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "text", tmp_path / "model")
    (folder / "README.md").write_text("ours")
    (folder / "notes.txt").write_text("ours")
    assert PersonalizedModel.from_pretrained(folder, device="cpu").kind == "text"
    with pytest.raises(DataError, match=r"README\.md: was changed"):
        check_sums(folder)
    check_sums(folder, "local/")


@pytest.mark.parametrize("content", [b"\xff", b"0" * 64, b"abc  config.json", b"0" * 64 + b"  a\n\n"])
def test_a_list_of_hashes_that_is_none_is_refused(made: Path, tmp_path: Path, content: bytes) -> None:
    folder = shutil.copytree(made / "text", tmp_path / "model")
    (folder / SUMS).write_bytes(content)
    with pytest.raises(DataError, match=SUMS):
        PersonalizedModel.from_pretrained(folder, device="cpu")


def test_hashes_that_are_written_again_are_of_the_files_as_they_are(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "text", tmp_path / "model")
    flipped(folder / "global" / "text" / "model.safetensors")
    with pytest.raises(DataError, match="global/text"):
        check_sums(folder, "global/")
    write_sums(folder)
    check_sums(folder)
    assert SUMS not in read_sums(folder)
