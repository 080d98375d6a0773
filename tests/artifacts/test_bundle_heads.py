"""The first bytes of a bundle say where its tensors lie, or how many more are needed, or that it is none."""

from __future__ import annotations

import json
import struct
import tarfile
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedafd.artifacts.bundle_heads import BundleHead, bundle_head
from fedafd.artifacts.folders import pack_folder
from fedafd.domain.errors import DataError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(5), "c": torch.zeros(4, dtype=torch.float16)}
BUNDLE = pack_folder({"config.json": b"{}" * 400, "model.safetensors": save(TENSORS), "tokenizer.json": b"words"})


def test_it_asks_for_more_until_all_is_there_and_each_tensor_lies_where_it_says() -> None:
    wanted, asked = 1, 0
    while isinstance(head := bundle_head(BUNDLE[:wanted], len(BUNDLE)), int):
        assert wanted < head <= len(BUNDLE)
        wanted, asked = head, asked + 1
    assert asked <= 4
    assert wanted == head.num_bytes
    assert head.tensors.keys() == TENSORS.keys()
    for name, tensor in load(save(TENSORS)).items():
        place = head.tensors[name]
        assert place.shape == tuple(tensor.shape)
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert BUNDLE[place.span.start : place.span.end] == content


@given(st.integers(0, len(BUNDLE)))
def test_any_beginning_is_enough_or_asks_for_more(count: int) -> None:
    head = bundle_head(BUNDLE[:count], len(BUNDLE))
    assert isinstance(head, BundleHead) or count < head <= len(BUNDLE)


@given(st.binary(max_size=2000), st.integers(0, 2**60))
def test_anything_else_is_refused_or_asks_for_more(begin: bytes, size_bytes: int) -> None:
    try:
        needed = bundle_head(begin, size_bytes)
    except DataError:
        return
    assert isinstance(needed, int)
    assert len(begin) < needed <= size_bytes


def bundle_with(header: Any, num_data_bytes: int = 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return pack_folder({"model.safetensors": struct.pack("<Q", len(text)) + text + bytes(num_data_bytes)})


def entry(*offsets: Any, **changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [4], "data_offsets": list(offsets)} | changes}


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"t": 1}',
        b"[" * 100_000,
        b'{"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "t": {}}',
        entry(0, 17),
        entry(8, 4),
        entry(-1, 4),
        entry(0, 2**63),
        entry(0),
        entry("0", "x"),
        entry(0, 16, shape=[-4]),
        entry(0, 16, shape=[2**70]),
        entry(0, 16, shape=[1] * 40),
        entry(0, 16, dtype=7),
        entry(0, 8),
        entry(4, 16),
        entry(0, 12) | {"u": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "tu"},
    ],
)
def test_a_hostile_header_is_refused(header: Any) -> None:
    blob = bundle_with(header)
    with pytest.raises(DataError, match="encoder bundle"):
        bundle_head(blob, len(blob))


@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**40)])
def test_a_file_that_is_said_to_end_before_it_begins_is_refused(size: int) -> None:
    member = tarfile.TarInfo("config.json")
    member.size = size
    begin = pack_folder({"a": b""})[: tarfile.BLOCKSIZE] + member.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match="encoder bundle"):
        bundle_head(begin, 2**20)


def test_a_header_without_an_end_is_refused_before_it_is_asked_for() -> None:
    member = tarfile.TarInfo("model.safetensors")
    member.size = 2**32
    begin = member.tobuf(tarfile.USTAR_FORMAT) + struct.pack("<Q", 2**31)
    with pytest.raises(DataError, match="before its first tensor"):
        bundle_head(begin, 2**33)
