"""Model archives unpack to plain files below their folder, on every Python that is supported."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from fedafd.client.archives import extract_files
from fedafd.domain.errors import DataError


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> tarfile.TarFile:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return tarfile.open(fileobj=buffer)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def test_files_land_below_the_folder(tmp_path: Path) -> None:
    members = [(tarfile.TarInfo("config.json"), b"{}"), (tarfile.TarInfo("image/model.safetensors"), b"weights")]
    extract_files(archive(*members), tmp_path, {"config.json": 2, "image/model.safetensors": 7})
    assert (tmp_path / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "image" / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "member",
    [
        (tarfile.TarInfo("../outside"), b"x"),
        (tarfile.TarInfo("/etc/outside"), b"x"),
        (tarfile.TarInfo("a/../../outside"), b"x"),
        link("name", "/etc/passwd"),
        link("name", "config.json", tarfile.LNKTYPE),
        link("name", "", tarfile.FIFOTYPE),
        (tarfile.TarInfo("."), b"x"),
    ],
    ids=["up", "absolute", "through", "symlink", "hardlink", "fifo", "root"],
)
def test_anything_else_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(DataError, match="is not a plain file below the folder"):
        extract_files(archive(member), folder, {member[0].name: len(member[1])})
    assert not list(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
