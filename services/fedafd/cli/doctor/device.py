"""Whether torch finds the device that a process is told to use, and computes on it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

from fedafd.cli.doctor.findings import Finding, bad, fine, look
from fedafd.domain.errors import ConfigurationError

__all__ = ["look_at_device"]

_SIDE = 256


def look_at_device(process: str, name: str) -> Iterator[Finding]:
    """torch, and the device that a process is given."""
    if importlib.util.find_spec("torch") is None:
        return  # told among the versions
    import torch

    from fedafd.learning.optimizers import choose_device

    variable = f"FEDAFD_{process.upper()}_DEVICE"
    try:
        device = choose_device(name)
        ones = torch.ones(_SIDE, _SIDE, device=device)
        right = bool(((ones @ ones) == _SIDE).all())
    except ConfigurationError as error:
        yield bad("device", f"{process}: {error}", f"set {variable} to auto or cpu, or give the process the GPU")
        return
    except RuntimeError as error:
        words = f"{process}, {name}: torch {torch.__version__} cannot compute on it: {str(error).splitlines()[0]}"
        yield bad("device", words, f"install the torch that fits the GPU's driver, or set {variable}=cpu")
        return
    if not right:
        yield bad("device", f"{process}, {device}: computes wrong results", f"replace it; until then {variable}=cpu")
    elif device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        shown = f"{torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield fine("device", f"{process}, {device}: {shown}, torch {torch.__version__}")
    elif name == "auto" and shutil.which("nvidia-smi") and torch.version.cuda is None:
        words = f"{process}: this machine has NVIDIA's driver, and torch {torch.__version__} is built for the CPU alone"
        yield look("device", words, f"install torch for CUDA, else the {process} works on the CPU")
    else:
        yield fine("device", f"{process}, {device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
