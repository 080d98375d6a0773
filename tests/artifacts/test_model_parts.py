"""A model in parts is, put together, the model; what travels is each tensor that the federation lacks, once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from fedafd.artifacts.folders import pack_folder
from fedafd.artifacts.model_parts import (
    MOST_FILES,
    MOST_PIECES,
    BundleBase,
    FilePieces,
    ModelBase,
    Parts,
    join_parts,
    pack_parts,
    read_parts,
)
from fedafd.artifacts.model_splitting import DeliveredModel, SplitModel, delivered_model, split_model
from fedafd.domain.errors import DataError, UploadError, UploadIncompleteError
from fedafd.domain.hashing import sha256_of

FROZEN_BYTES, TRAINED_BYTES = 20 * 40_000, 8_000
DESCRIBED_BYTES = 25_000
"""Headers, small files and the tar around them."""


def encoder(seed: int, *, frozen: int = 0) -> bytes:
    """Twenty frozen layers, and a projection that is trained; of other layers with another `frozen`."""
    layers = np.random.default_rng(frozen).standard_normal((20, 100, 100)).astype(np.float32)
    projection = np.random.default_rng(seed + 1000).standard_normal((20, 100)).astype(np.float32)
    return save({f"layer.{n}": layer for n, layer in enumerate(layers)} | {"projection": projection})


def bundle(tmp_path: Path, seed: int) -> Path:
    path = tmp_path / f"bundle-{seed}"
    path.write_bytes(pack_folder({"config.json": b"{}", "model.safetensors": encoder(seed)}))
    return path


def model(seed: int, *, frozen: int = 0) -> dict[str, bytes]:
    return {
        "README.md": b"of round %d" % seed,
        "alone/text/model.safetensors": encoder(seed + 100, frozen=frozen),
        "global/text/model.safetensors": encoder(seed),
        "local/text/model.safetensors": encoder(seed + 200, frozen=frozen),
    }


def packed(tmp_path: Path, files: Mapping[str, bytes]) -> Path:
    path = tmp_path / "model.blob"
    path.write_bytes(pack_folder(files))
    return path


def joined(split: SplitModel, bundles: list[Path], before: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a federation that has these makes of it."""
    found = read_parts(io.BytesIO(split.blob))
    assert found is not None
    parts, new = found
    by_hash = {sha256_of(path.read_bytes()): path.read_bytes() for path in bundles}

    def read(number: int, start: int, length: int) -> Iterator[bytes]:
        base = parts.bases[number]
        content = by_hash[base.sha256] if isinstance(base, BundleBase) else before[base.path]
        yield content[start : start + length]

    return {path: b"".join(content) for path, content in join_parts(parts, new, read)}


def test_a_tensor_of_several_encoders_travels_once(tmp_path: Path) -> None:
    files = model(1)
    split = split_model(packed(tmp_path, files), [], None)
    assert split is not None
    assert joined(split, [], {}) == files
    assert len(split.blob) < FROZEN_BYTES + 3 * TRAINED_BYTES + DESCRIBED_BYTES


def test_what_a_bundle_holds_does_not_travel(tmp_path: Path) -> None:
    files, bundles = model(1), [bundle(tmp_path, 1)]
    split = split_model(packed(tmp_path, files), bundles, None)
    assert split is not None
    assert joined(split, bundles, {}) == files
    assert len(split.blob) < 2 * TRAINED_BYTES + DESCRIBED_BYTES
    assert [base.kind for base in split.bases] == ["bundle"]


def test_what_was_delivered_before_does_not_travel_again(tmp_path: Path) -> None:
    """The site's own encoder has other frozen weights than the federation's."""
    first, second = model(1, frozen=7), model(2, frozen=7)
    kept = delivered_model(packed(tmp_path, first), 1)
    bundles = [bundle(tmp_path, 2)]
    split = split_model(packed(tmp_path, second), bundles, DeliveredModel.from_bytes(kept.to_bytes()))
    assert split is not None
    assert joined(split, bundles, first) == second
    assert len(split.blob) < 2 * TRAINED_BYTES + DESCRIBED_BYTES
    assert {base.kind for base in split.bases} == {"bundle", "model"}


def test_neighbouring_tensors_are_one_piece(tmp_path: Path) -> None:
    split = split_model(packed(tmp_path, model(1)), [bundle(tmp_path, 1)], None)
    assert split is not None
    found = read_parts(io.BytesIO(split.blob))
    assert found is not None
    assert [len(file.pieces) for file in found[0].files] == [1, 2, 1, 2]


def test_a_model_that_has_nothing_in_common_with_anything_goes_whole(tmp_path: Path) -> None:
    assert split_model(packed(tmp_path, {"local/text/model.safetensors": encoder(1)}), [], None) is None


def test_a_model_of_too_many_pieces_goes_whole(tmp_path: Path) -> None:
    files = {f"{number}.json": b"0" * 300 for number in range(MOST_FILES + 1)}
    assert split_model(packed(tmp_path, files), [], None) is None
    # Every second tensor is new, so that no two pieces are neighbours.
    rows = np.random.default_rng(0).standard_normal((MOST_PIECES + 2, 100)).astype(np.float32)
    again = rows.copy()
    again[::2] += 1
    both = [save({f"{n:05d}": row for n, row in enumerate(each)}) for each in (rows, again)]
    assert split_model(packed(tmp_path, {"a.safetensors": both[0], "b.safetensors": both[1]}), [], None) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01\0", b"\xff" * 20, encoder(1)[:-4], encoder(1) + b"more", b"\x02" + bytes(7) + b"[]", bytes(5000)],
    ids=["empty", "short", "long header", "cut", "longer", "a list", "zeros"],
)
def test_a_file_that_is_no_safetensors_is_one_portion(tmp_path: Path, content: bytes) -> None:
    files = {"a.safetensors": content, "b.safetensors": content, "c.txt": bytes(20_000), "d.txt": bytes(20_000)}
    split = split_model(packed(tmp_path, files), [], None)
    assert split is not None
    assert joined(split, [], {}) == files


def test_a_base_that_is_another_makes_no_file(tmp_path: Path) -> None:
    first, bundles = model(1, frozen=7), [bundle(tmp_path, 2)]
    kept = delivered_model(packed(tmp_path, first), 1)
    split = split_model(packed(tmp_path, model(2, frozen=7)), bundles, kept)
    assert split is not None
    with pytest.raises(UploadIncompleteError, match="does not get its hash"):
        joined(split, bundles, model(3, frozen=8))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"version": 1}', b'{"version": 1, "files": {}, "portions": [["0"]]}'])
def test_hashes_of_a_delivered_model_that_are_damaged_are_none(data: bytes) -> None:
    with pytest.raises(DataError, match="not the hashes"):
        DeliveredModel.from_bytes(data)


def described(pieces: list[list[int]], size_bytes: int = 10, path: str = "a.json") -> bytes:
    file = FilePieces(path=path, sha256="0" * 64, size_bytes=size_bytes, pieces=pieces)
    return pack_parts(Parts(bases=[], files=[file]), b"new bytes!")


def bomb() -> bytes:
    """Four thousand times the same bytes, in a thousand files: each file alone is small enough."""
    pieces = [[0, 0, 10]] * (MOST_PIECES // 1000 + 1)
    file = FilePieces(path="a.json", sha256="0" * 64, size_bytes=10 * len(pieces), pieces=pieces)
    files = [file.model_copy(update={"path": f"{number}.json"}) for number in range(1000)]
    return pack_parts(Parts(bases=[], files=files), b"new bytes!")


def raw(description: bytes) -> bytes:
    return pack_folder({"parts.json": description, "new": b""})


BAD: dict[str, Callable[[], bytes]] = {
    "beyond what came": lambda: described([[0, 5, 6]], 6),
    "of a base that is not there": lambda: described([[1, 0, 10]]),
    "of no length": lambda: described([[0, 0, 10], [0, 3, 0]]),
    "other length": lambda: described([[0, 0, 9]]),
    "climbing path": lambda: described([[0, 0, 10]], path="../../evil.json"),
    "absolute path": lambda: described([[0, 0, 10]], path="/etc/evil.json"),
    "the same path twice": lambda: pack_parts(
        Parts(bases=[], files=[FilePieces(path="a", sha256="0" * 64, size_bytes=0, pieces=[])] * 2), b""
    ),
    "too many pieces": bomb,
    "too many files": lambda: raw(b'{"bases": [], "files": [%s]}' % b", ".join([b"{}"] * 1001)),
    "no json": lambda: raw(b"{"),
    "deep json": lambda: raw(b"[" * 100_000),
    "no parts": lambda: raw(b"[]"),
    "long": lambda: raw(b" " * (3 << 20)),
    "other keys": lambda: raw(b'{"bases": [], "files": [], "more": 1}'),
    "a base of another kind": lambda: raw(b'{"bases": [{"kind": "file", "path": "/etc/passwd"}], "files": []}'),
    "a version beyond all": lambda: raw(
        b'{"bases": [{"kind": "model", "version": 2147483648, "path": "a", "sha256": "%s"}], "files": []}' % (b"0" * 64)
    ),
    "a path that no database keeps": lambda: raw(
        b'{"bases": [], "files": [{"path": "a\\u0000.json", "sha256": "%s", "size_bytes": 0, "pieces": []}]}'
        % (b"0" * 64)
    ),
    "a base that is no hash": lambda: raw(b'{"bases": [{"kind": "bundle", "sha256": "../secret"}], "files": []}'),
    "negative": lambda: raw(
        b'{"bases": [], "files": [{"path": "a", "sha256": "%s", "size_bytes": 0, "pieces": [[0, -5, 5]]}]}'
        % (b"0" * 64)
    ),
    "no whole numbers": lambda: raw(
        b'{"bases": [], "files": [{"path": "a", "sha256": "%s", "size_bytes": 0, "pieces": [[0, 0.5, 1]]}]}'
        % (b"0" * 64)
    ),
}


REASONS = {
    "beyond what came": "a piece of nothing",
    "of a base that is not there": "a piece of nothing",
    "of no length": "a piece of nothing",
    "other length": "do not have its length",
    "climbing path": "not a plain relative path",
    "absolute path": "not a plain relative path",
    "the same path twice": "a file is there twice",
    "too many pieces": "more than 4096 pieces",
    "long": "is longer than",
}


@pytest.mark.parametrize("name", BAD)
def test_parts_that_no_site_of_ours_makes_are_refused(name: str) -> None:
    with pytest.raises(UploadError, match=REASONS.get(name, "does not describe the parts of a model")) as raised:
        read_parts(io.BytesIO(BAD[name]()))
    assert not isinstance(raised.value, UploadIncompleteError)


def test_a_whole_model_is_no_parts() -> None:
    assert read_parts(io.BytesIO(pack_folder(model(1)))) is None


def test_bases_are_told_apart() -> None:
    parts = Parts(bases=[BundleBase(sha256="1" * 64), ModelBase(version=3, path="a", sha256="2" * 64)], files=[])
    found = read_parts(io.BytesIO(pack_parts(parts, b"")))
    assert found is not None
    assert (found[0], len(found[1])) == (parts, 0)
