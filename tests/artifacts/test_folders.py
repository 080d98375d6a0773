"""Packed folders survive the wire, and only what was meant passes."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.domain.errors import UploadError

paths = st.from_regex(r"\A[a-z0-9_.]{1,12}(/[a-z0-9_]{1,12}){0,3}\Z").filter(
    lambda path: not set(path.split("/")) & {".", ".."}
)


@settings(max_examples=50)
@given(files=st.dictionaries(paths, st.binary(max_size=2000), max_size=5))
def test_a_folder_comes_back_and_equal_folders_have_equal_bytes(files: dict[str, bytes]) -> None:
    blob = pack_folder(files)
    assert unpack_folder(blob) == files
    assert pack_folder(dict(reversed(files.items()))) == blob


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a\\b", "./a", "a//b", "a/"])
def test_a_path_that_is_not_plain_is_neither_packed_nor_unpacked(path: str) -> None:
    with pytest.raises(UploadError, match="is not a plain relative path"):
        pack_folder({path: b""})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo()
        info.name = path
        tar.addfile(info)
    stored = tarfile.TarFile(fileobj=io.BytesIO(buffer.getvalue())).getnames()
    if stored == [path]:  # tarfile itself strips a slash at the end
        with pytest.raises(UploadError):
            unpack_folder(buffer.getvalue())


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_bundle_is_unpacked_or_refused_and_nothing_else(data: st.DataObject) -> None:
    blob = bytearray(pack_folder({"config.json": b"{}", "model.safetensors": b"x" * 700}))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    try:
        assert all(isinstance(content, bytes) for content in unpack_folder(bytes(blob)).values())
    except UploadError:
        pass
