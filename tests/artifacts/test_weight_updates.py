"""Weights on the wire: what can be averaged, and what is refused with its reason."""

from __future__ import annotations

import json
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


def test_a_good_update_passes() -> None:
    check_weight_update(update(), ClientKind.IMAGE)


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
        (save({"a": np.ones(2)}), "not readable"),
        (update(group="image-00000000-abc123"), "but their tensors make image-"),
        (update(group=group().replace("image", "text")), "but their tensors make image-"),
        (update(group=group() + "/../x"), "but their tensors make image-"),
        (update(num_private_samples=-1), "of -1 private samples"),
        (update(num_private_samples="many"), "not readable"),
        (update(TENSORS | {"model/head": np.full((2, 3), np.nan, dtype=np.float32)}), "1 of 2 tensors have a value"),
    ],
    ids=range(8),
)
def test_what_cannot_be_averaged_is_refused(blob: bytes, told: str) -> None:
    with pytest.raises(UploadError) as caught:
        check_weight_update(blob, ClientKind.IMAGE)
    assert told in str(caught.value)


def test_a_client_of_another_kind_is_refused() -> None:
    with pytest.raises(UploadError, match="make text-"):
        check_weight_update(update(), ClientKind.TEXT)
