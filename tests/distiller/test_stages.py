"""Stages hand on what the wire carries: global representations are rounded once, where they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.tiny import tiny_federation, tiny_public

from fedafd.artifacts.representations import (
    decode_global_representations,
    decode_representations,
    encode_representations,
)
from fedafd.distiller.stages import StageWork, run_stage
from fedafd.domain.config import FederationConfig, WireDtype
from fedafd.domain.errors import RepresentationError
from fedafd.domain.kinds import Modality, StageKind
from fedafd.simulation.federation import Federation, FederationProgress

SHA256 = "0" * 64
BYTES = {WireDtype.FLOAT32: 4, WireDtype.FLOAT16: 2, WireDtype.INT8: 1}


def prepared(config: FederationConfig) -> bytes:
    torch.set_num_threads(1)
    given: dict[str, Any] = {"federation_id": "f", "modality": None, "inputs": {}, "device": "cpu", "processes": 1}
    federation = Federation(config, tiny_public(), [], device="cpu")
    work = StageWork(
        kind=StageKind.PREPARE,
        config=config,
        round_number=1,
        seed=federation._seed(1, "server", "prepare"),
        public_set_sha256=SHA256,
        split=lambda name: tiny_public()[name],
        progress=lambda _, __: None,
        **given,
    )
    return run_stage(work).outputs["representations"]


@pytest.mark.parametrize("dtype", WireDtype)
def test_global_representations_travel_as_the_wire_says_and_the_simulation_sees_the_same(dtype: WireDtype) -> None:
    config = tiny_federation(wire_dtype=dtype.value)
    blob = prepared(config)
    count = len(tiny_public()["train"])
    found = decode_representations(
        blob, modalities=list(Modality), num_samples=count, embedding_dim=16, public_set_sha256=SHA256, dtype=dtype
    )
    assert len(blob) < 2 * count * (16 * BYTES[dtype] + 4) + 500
    simulated = Federation(config, tiny_public(), [], device="cpu").run_round(FederationProgress())
    for modality, rows in found.items():
        assert np.array_equal(rows, simulated.representations[modality]), modality


@pytest.mark.parametrize("dtype", WireDtype)
def test_a_round_that_was_prepared_in_float32_before_an_update_goes_on(dtype: WireDtype) -> None:
    config = tiny_federation(wire_dtype=dtype.value)
    count = len(tiny_public()["train"])
    rows = {m: np.eye(16, dtype=np.float32)[np.arange(count) % 16] for m in Modality}
    for sent in (WireDtype.FLOAT32, dtype):
        found = decode_global_representations(
            encode_representations(rows, SHA256, sent),
            num_samples=count,
            embedding_dim=16,
            public_set_sha256=SHA256,
            dtype=config.wire_dtype,
        )
        for modality in Modality:
            np.testing.assert_allclose(found[modality], rows[modality], atol=1e-6)
    other = WireDtype.INT8 if dtype is not WireDtype.INT8 else WireDtype.FLOAT16
    with pytest.raises(RepresentationError):
        decode_global_representations(
            encode_representations(rows, SHA256, other),
            num_samples=count,
            embedding_dim=16,
            public_set_sha256=SHA256,
            dtype=dtype,
        )
