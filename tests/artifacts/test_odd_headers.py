"""Headers of safetensors whose JSON is odd inside: an error of ours, whatever stands in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from fedafd.artifacts.headers import read_meta
from fedafd.artifacts.weight_updates import check_weight_update, group_name, layout_of
from fedafd.domain.errors import UploadError
from fedafd.domain.kinds import ClientKind

TENSORS = {"a": np.ones((2, 3), np.float32)}
DEEP = "[" * 50_000


def headed(meta: str) -> bytes:
    return save(TENSORS, metadata={"meta": meta})


@pytest.mark.parametrize("samples", ["Infinity", "-Infinity", "NaN", "[]", "1" * 5000, DEEP])
def test_weights_that_count_their_samples_oddly_are_refused(samples: str, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    group = group_name(ClientKind.IMAGE, layout_of({"a": ("float32", (2, 3))}), "x1")
    file.write_bytes(headed(f'{{"group": "{group}", "num_private_samples": {samples}}}'))
    with pytest.raises(UploadError, match="a number of samples"):
        check_weight_update(file, ClientKind.IMAGE)
    file.write_bytes(headed(json.dumps({"group": group, "num_private_samples": 3})))
    check_weight_update(file, ClientKind.IMAGE)


@pytest.mark.parametrize("meta", [DEEP, "[]", "5", "null", '"x"', "{"])
def test_values_of_ours_are_an_object(meta: str) -> None:
    with pytest.raises(ValueError, match="no header with values of ours"):
        read_meta(headed(meta))
    assert read_meta(headed('{"step": 1}')) == {"step": 1}
