"""Weights on the wire: what can be averaged, and what is refused with its reason."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from fedafd.artifacts.weight_updates import check_weight_update, group_name, layout_of
from fedafd.domain.errors import UploadError
from fedafd.domain.kinds import ClientKind

TENSORS: dict[str, NDArray[Any]] = {
    "model/head": np.ones((2, 3), dtype=np.float32),
    "model/steps": np.array(4, dtype=np.int64),
}


def group(tensors: dict[str, NDArray[Any]] = TENSORS) -> str:
    layout = layout_of({name: (str(value.dtype), value.shape) for name, value in tensors.items()})
    return group_name(ClientKind.IMAGE, layout, "abc123")


def update(tensors: dict[str, NDArray[Any]] = TENSORS, **meta: object) -> bytes:
    told = {"group": group(), "num_private_samples": 5} | meta
    return save(tensors, metadata={"meta": json.dumps(told)})


def check(folder: Path, blob: bytes, kind: ClientKind = ClientKind.IMAGE) -> None:
    (folder / "weights").write_bytes(blob)
    check_weight_update(folder / "weights", kind)


def test_a_good_update_passes(tmp_path: Path) -> None:
    check(tmp_path, update())


def test_every_kind_of_number_that_agents_send_passes(tmp_path: Path) -> None:
    kinds = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool")
    tensors: dict[str, NDArray[Any]] = {kind: np.ones((3, 2), dtype=kind) for kind in kinds}
    tensors |= {"nothing": np.ones((0, 4), np.float32), "one": np.ones((), np.float32)}
    check(tmp_path, update(tensors, group=group(tensors)))


def test_weights_take_no_more_memory_the_larger_they_are(tmp_path: Path) -> None:
    mib = 1 << 20
    rows: dict[str, NDArray[Any]] = {"one row": np.ones((1, 96 * mib // 4), np.float32)}
    (tmp_path / "weights").write_bytes(update(rows, group=group(rows)))
    peaks = []
    for _ in range(2):  # the first call loads what it needs
        tracemalloc.start()
        check_weight_update(tmp_path / "weights", ClientKind.IMAGE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[-1] < 8 * mib


@pytest.mark.parametrize("place", [0, 262_143, 262_144, 700_000, 999_999])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(tmp_path: Path, place: int, value: float) -> None:
    rows: dict[str, NDArray[Any]] = {"a": np.ones(7, np.float32), "b": np.zeros((1000, 1000), np.float32)}
    rows["b"].flat[place] = value
    with pytest.raises(UploadError, match="1 of 2 tensors have a value that is not finite"):
        check(tmp_path, update(rows, group=group(rows)))


def headed(header: str, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    rows = {"a": np.ones(1, np.float32)}
    meta = json.dumps(json.dumps({"group": group(rows), "num_private_samples": 1}))
    tensor = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    for tensors in (f"{tensor}, {tensor}", tensor):
        blob = headed(f'{{"__metadata__": {{"meta": {meta}}}, {tensors}}}', np.ones(1, np.float32).tobytes())
        if tensors == tensor:
            check(tmp_path, blob)
            continue
        with pytest.raises(UploadError, match="not readable"):
            check(tmp_path, blob)


def test_layouts_differ_by_name_dtype_and_shape() -> None:
    layouts = {
        layout_of({"a": ("float32", (2,))}),
        layout_of({"b": ("float32", (2,))}),
        layout_of({"a": ("float64", (2,))}),
        layout_of({"a": ("float32", (2, 1))}),
    }
    assert len(layouts) == 4


@pytest.mark.parametrize(
    ("blob", "told"),
    [
        (b"nothing", "not readable"),
        (b"", "not readable"),
        (struct.pack("<Q", 9 << 20) + b" " * (9 << 20), "not readable"),
        (update()[:-1], "not readable"),
        (update() + b"x", "not readable"),
        (save({"a": np.ones(2)}), "not readable"),
        (update(group="image-00000000-abc123"), "but their tensors make image-"),
        (update(group=group().replace("image", "text")), "but their tensors make image-"),
        (update(group=group() + "/../x"), "but their tensors make image-"),
        (update(num_private_samples=-1), "of -1 private samples"),
        (update(num_private_samples="many"), "not readable"),
        (update(TENSORS | {"model/head": np.full((2, 3), np.nan, dtype=np.float32)}), "1 of 2 tensors have a value"),
    ],
    ids=range(12),
)
def test_what_cannot_be_averaged_is_refused(blob: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(UploadError) as caught:
        check(tmp_path, blob)
    assert told in str(caught.value)


def test_a_client_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="make text-"):
        check(tmp_path, update(), ClientKind.TEXT)
