"""The devices that a test runs on: the CPU, and a GPU where torch finds one (`make test-gpu`)."""

from __future__ import annotations

import pytest
import torch

__all__ = ["CUDA", "DEVICES"]

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")],
)
DEVICES = ["cpu", CUDA]
