"""Representations survive the wire, and only what is expected passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from fedafd.artifacts.representations import decode_representations, encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.errors import PublicSetMismatchError, RepresentationError
from fedafd.domain.kinds import Modality

SHA = "a" * 64
LARGEST_ERROR = {WireDtype.FLOAT32: 0.0, WireDtype.FLOAT16: 5e-4, WireDtype.INT8: 1 / 254 + 1e-6}


def unit_rows(num: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(num, dim))
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def decode(
    blob: bytes, num: int = 6, dim: int = 8, dtype: WireDtype = WireDtype.FLOAT16, sha: str = SHA
) -> dict[Modality, NDArray[np.float32]]:
    return decode_representations(
        blob, modalities=[Modality.IMAGE], num_samples=num, embedding_dim=dim, public_set_sha256=sha, dtype=dtype
    )


@settings(deadline=None, max_examples=30)
@given(dtype=st.sampled_from(WireDtype), num=st.integers(1, 40), dim=st.integers(8, 64), seed=st.integers(0, 2**32 - 1))
def test_a_round_trip_keeps_every_value_to_its_dtypes_error(dtype: WireDtype, num: int, dim: int, seed: int) -> None:
    reps = {m: unit_rows(num, dim, seed + index) for index, m in enumerate(Modality)}
    blob = encode_representations(reps, SHA, dtype)
    back = decode_representations(
        blob, modalities=list(Modality), num_samples=num, embedding_dim=dim, public_set_sha256=SHA, dtype=dtype
    )
    for modality, rows in reps.items():
        assert back[modality].dtype == np.float32
        np.testing.assert_allclose(back[modality], rows, rtol=0, atol=LARGEST_ERROR[dtype])


def test_equal_values_make_equal_bytes() -> None:
    a, b = unit_rows(6, 8, 1), unit_rows(6, 8, 2)
    one = encode_representations({Modality.IMAGE: a, Modality.TEXT: b}, SHA)
    assert one == encode_representations({Modality.TEXT: b, Modality.IMAGE: a}, SHA)


def test_another_public_set_is_refused() -> None:
    blob = encode_representations({Modality.IMAGE: unit_rows(6, 8)}, "b" * 64)
    with pytest.raises(PublicSetMismatchError, match="bbbb.*aaaa"):
        decode(blob)


def test_a_wrong_tensor_name_is_refused() -> None:
    with pytest.raises(RepresentationError, match=r"\['text'\], expected \['image'\]"):
        decode(encode_representations({Modality.TEXT: unit_rows(6, 8)}, SHA))


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(RepresentationError, match=r"'image' has shape \[5, 8\], expected \[6, 8\]"):
        decode(encode_representations({Modality.IMAGE: unit_rows(5, 8)}, SHA))


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(RepresentationError, match="'image' has dtype float32, expected float16"):
        decode(encode_representations({Modality.IMAGE: unit_rows(6, 8)}, SHA, WireDtype.FLOAT32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    rows = unit_rows(6, 8)
    rows[3, 2] = value
    with pytest.raises(RepresentationError, match="not finite, first in row 3"):
        decode(encode_representations({Modality.IMAGE: rows}, SHA))


def test_a_row_that_is_not_of_unit_length_is_refused() -> None:
    rows = unit_rows(6, 8)
    rows[4] *= 2
    with pytest.raises(RepresentationError, match="row 4 has length 2.0"):
        decode(encode_representations({Modality.IMAGE: rows}, SHA))


def test_a_scale_that_does_not_fit_is_refused() -> None:
    tensors: dict[str, NDArray[Any]] = {"image": np.zeros((6, 8), np.int8), "image.scale": np.ones(5, np.float32)}
    with pytest.raises(RepresentationError, match=r"'image.scale' must be float32 of shape \[6\]"):
        decode(save(tensors, metadata={"public_set_sha256": SHA}), dtype=WireDtype.INT8)


@pytest.mark.parametrize("blob", [b"", b"short", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x80\x04cos\nsystem\n."])
def test_bytes_that_are_no_safetensors_are_refused(blob: bytes) -> None:
    with pytest.raises(RepresentationError, match="not readable"):
        decode(blob)


@settings(deadline=None, max_examples=60)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_blob_is_decoded_or_refused_but_never_crashes(position: int, value: int) -> None:
    blob = bytearray(encode_representations({Modality.IMAGE: unit_rows(6, 8)}, SHA))
    blob[position % len(blob)] = value
    try:
        decode(bytes(blob))
    except (RepresentationError, PublicSetMismatchError):
        pass


def test_a_tensor_whose_name_is_there_twice_is_refused() -> None:
    import struct

    rows = np.tile(np.array([1.0, 0.0, 0, 0, 0, 0, 0, 0], dtype=np.float32), (2, 1)).tobytes()
    entry = '"image":{"dtype":"F32","shape":[2,8],"data_offsets":[%d,%d]}'
    meta = '"__metadata__":{"public_set_sha256":"%s"}' % ("a" * 64)
    header = ("{" + ",".join([meta, entry % (0, 64), entry % (64, 128)]) + "}").encode()
    blob = struct.pack("<Q", len(header)) + header + rows + rows
    with pytest.raises(RepresentationError, match="safetensors"):
        decode_representations(
            blob,
            modalities=[Modality.IMAGE],
            num_samples=2,
            embedding_dim=8,
            public_set_sha256="a" * 64,
            dtype=WireDtype.FLOAT32,
        )
