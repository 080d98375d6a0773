"""Small files that unpack to far too much are refused by name, in little memory; read in a process of their own."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.datasets.makers import image_folder

from fedafd.datasets import load_client_data
from fedafd.datasets.decoding import as_rgb, decode_image
from fedafd.datasets.plain_pickle import load_plain_pickle
from fedafd.datasets.report import survey
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

MEMORY_BYTES = 700 << 20
"""What a reader may take beyond what it had after its imports."""
LIMITED = """
import resource, sys
from pathlib import Path
from fedafd.datasets.decoding import decode_image, has_several_frames
from fedafd.datasets.parquet_files import read_column
from fedafd.datasets.plain_pickle import load_plain_pickle
from fedafd.datasets.picture_store import open_store
from fedafd.datasets.public_set import _read_shard
from fedafd.datasets.table_files import read_table
from fedafd.domain.errors import DataError
from fedafd.artifacts.manifest import Shard
kind, path = sys.argv[1], Path(sys.argv[2])
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    if kind == "image":
        has_several_frames(path.read_bytes(), "bomb.png")
        decode_image(path.read_bytes(), "bomb.png")
    elif kind == "pickle":
        load_plain_pickle(path.read_bytes(), "bomb.png")
    elif kind == "tar":
        open_store(path.parent, path.name)
    elif kind == "table":
        read_table(path, None)
    elif kind == "column":
        read_column([path], "text", "text")
    else:
        import hashlib
        content = path.read_bytes()
        rows = int(kind)
        shard = Shard(split="train", name="train-0.parquet", sha256=hashlib.sha256(content).hexdigest(),
                      size_bytes=len(content), num_rows=rows)
        _read_shard(path, shard, ["captions", "id"])
except DataError as error:
    print("refused:", error)
except MemoryError:
    print("out of memory")
else:
    print("read")
"""


def _read(kind: str, path: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, kind, str(path), str(MEMORY_BYTES)], capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def _png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


IMAGES = {
    "PNG": _png(25_000, 25_000),
    "deep PNG": _png(60_000, 60_000, 16, 6),
    "GIF": b"GIF89a"
    + struct.pack("<HH", 65535, 65535)
    + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES.keys())
def test_a_picture_of_too_many_pixels_is_not_decoded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _read("image", tmp_path / "file").startswith("refused: bomb.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_largest_picture_takes_little_more_memory_than_its_pixels(mode: str, tmp_path: Path) -> None:
    from PIL import Image

    Image.new(mode, (8192, 8192)).save(tmp_path / "file", format="PNG")
    assert _read("image", tmp_path / "file") == "read\n"


def test_strips_make_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    for mode in ("RGBA", "LA", "P", "L", "RGB", "CMYK", "1"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode).save(
            buffer, format="TIFF" if mode == "CMYK" else "PNG"
        )
        monkeypatch.setattr("fedafd.datasets.decoding._STRIP_PIXELS", 1 << 22)
        whole = decode_image(buffer.getvalue(), "x")
        monkeypatch.setattr("fedafd.datasets.decoding._STRIP_PIXELS", 50)
        np.testing.assert_array_equal(decode_image(buffer.getvalue(), "x"), whole)


def _doubled() -> bytes:
    """Forty lists, each of the one before twice."""
    return b"\x80\x04]\x94" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"e\x94" for n in range(40)) + b"."


def _array_again_and_again() -> bytes:
    # The same bytes, named by a memo, become an array a thousand times.
    head = (
        b"\x80\x04cnumpy._core.numeric\n_frombuffer\n\x94B" + struct.pack("<I", 1 << 20) + b"\0" * (1 << 20) + b"\x94"
    )
    kind = b"cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R\x94"
    each = b"h\0(h\1h\2J" + struct.pack("<i", 1 << 20) + b"\x85\x8c\x01CtR"
    return head + kind + b"](" + each * 1000 + b"e."


PICKLES = {
    "doubled": _doubled(),
    "array again and again": _array_again_and_again(),
    "itself": b"\x80\x04]\x94h\0a.",
    "nested key": b"\x80\x04}("
    + b")\x94"
    + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(40))
    + b"K\x01u.",
    "nested argument": b"\x80\x04"
    + b")\x94"
    + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(40))
    + b"c_codecs\nencode\nX\x01\0\0\0xh\x28\x86R.",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES.keys())
def test_a_pickle_that_names_itself_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _read("pickle", tmp_path / "file").startswith("refused: bomb.png")


def test_plain_pickles_are_read_as_before() -> None:
    data = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 3], "names": ["a"] * 500}
    found = load_plain_pickle(pickle.dumps(data, protocol=2), "x")
    np.testing.assert_array_equal(found[b"data"], data[b"data"])
    assert (found[b"labels"], found["names"]) == (data[b"labels"], data["names"])


def _repeated(path: Path, rows: int, length: int) -> None:
    value = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["x" * length]))
    pq.write_table(pa.table({"text": value}), path, compression="zstd")


@pytest.mark.parametrize(("rows", "length"), [(30_000, 1_000_000), (50_000_000, 1)], ids=["long values", "many rows"])
def test_a_column_that_unpacks_a_millionfold_is_refused(rows: int, length: int, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    _repeated(path, rows, length)
    assert path.stat().st_size < 1 << 20
    assert "decompression bomb" in _read("column", path)


def test_a_shard_of_a_public_set_that_unpacks_a_millionfold_is_refused(tmp_path: Path) -> None:
    path, rows = tmp_path / "train-0.parquet", 3000
    captions = pa.array([["x" * 200_000]] * rows, type=pa.list_(pa.string()))
    image = pa.array(
        [{"bytes": b"", "path": ""}] * rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": image, "captions": captions, "id": pa.array([str(n) for n in range(rows)])})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    assert "decompression bomb" in _read(str(rows), path)
    assert "the manifest says 5" in _read("5", path)


@pytest.mark.parametrize("how", ["folder", "path"])
def test_a_picture_of_forty_gigabytes_is_not_read(how: str, tmp_path: Path) -> None:
    """A file with a hole: it takes nothing on the disk, and all memory there is once it is read."""
    folder = image_folder(tmp_path / "data", splits=True)
    first = min(folder.rglob("*.png"))
    with first.open("r+b") as file:
        file.truncate(40 << 30)
    if how == "path":
        with pytest.raises(DataError, match="more than"):
            as_rgb(first)
        return
    found = survey(load_client_data("image-folder", folder, ClientKind.IMAGE, {})).report.unreadable
    assert "more than" in str(found)


def test_a_table_that_does_not_fit_into_memory_is_refused_in_words(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from fedafd.datasets.files import read_bytes
from fedafd.domain.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    read_bytes(Path(sys.argv[1]))
except DataError as error:
    print("refused:", error)
"""
    with (tmp_path / "table.csv").open("wb") as file:
        file.truncate(40 << 30)
    command = [sys.executable, "-c", code, str(tmp_path / "table.csv")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert said.startswith("refused:") and "does not fit into memory" in said


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_largest_jpeg_2000_takes_no_more_memory_than_other_pictures_and_a_larger_one_is_refused(
    mode: str, tmp_path: Path
) -> None:
    """Its decoder takes several times as much a pixel: 1.6 GB for 841 bytes of 8192 x 8192."""
    from PIL import Image

    for name, width in (("fits", 4096), ("too large", 4097)):
        Image.new(mode, (width, 4096)).save(tmp_path / name, format="JPEG2000")
    assert _read("image", tmp_path / "fits") == "read\n"
    assert _read("image", tmp_path / "too large").startswith("refused: bomb.png")


@pytest.mark.parametrize(("content", "said"), [(b"", "holds a NUL"), (b"a" * (65 << 20), ":2: the line has more than")])
def test_a_table_that_is_no_text_is_refused_before_it_is_read_to_its_end(
    content: bytes, said: str, tmp_path: Path
) -> None:
    """Of two gigabytes: they were read and decoded, in 4.2 GB of memory, before anything was looked at."""
    path = tmp_path / "train.csv"
    with path.open("wb") as file:
        file.write(b"text,label\n" + content)
        file.truncate(2 << 30)
    assert said in _read("table", path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE], ids=["GNU", "pax"])
def test_a_tar_whose_member_has_a_name_of_gigabytes_is_refused(kind: bytes, tmp_path: Path) -> None:
    """A file with a hole: the name was read, in 3.2 GB of memory."""
    head = tarfile.TarInfo("long")
    head.type, head.size = kind, 3 << 30
    path = tmp_path / "images.tar"
    path.write_bytes(head.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as file:
        file.truncate((3 << 30) + 10240)
    assert "not a whole, uncompressed tar" in _read("tar", path)
