"""The devices that an experiment's workers run on, and which of them the next worker gets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from fedafd.domain.errors import ConfigurationError

__all__ = ["check_devices", "device_names", "least_used"]

_ALLOWED = r"auto|cpu|mps|cuda|cuda:[0-9]+(,cuda:[0-9]+)*"


def check_devices(text: str) -> None:
    """Raise ConfigurationError unless `text` names devices as --device does."""
    if not re.fullmatch(_ALLOWED, text):
        raise ConfigurationError(f"--device {text}: expected auto, cpu, cuda, cuda:N or mps, or cuda:N,cuda:M")


def device_names(text: str, gpus: int) -> list[str]:
    """The devices that `text` names, each once, where torch finds `gpus` CUDA devices; `auto` takes all of several."""
    check_devices(text)
    if text == "auto" and gpus > 1:
        return [f"cuda:{index}" for index in range(gpus)]
    named = [f"cuda:{int(part.removeprefix('cuda:'))}" if ":" in part else part for part in text.split(",")]
    return list(dict.fromkeys(named))


def least_used(devices: Sequence[str], used: Iterable[str]) -> str:
    """The device with the fewest workers, the first of equals; `used` has each worker's device."""
    counts = Counter(used)
    return min(devices, key=lambda device: counts[device])
