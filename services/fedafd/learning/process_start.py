"""How processes that train are started.

A process that starts empty spends seconds of a core on importing torch, transformers and what stands on them. On the
CPU a server does that once (multiprocessing's fork server, which ends with the process that started it), and each
process is a fork of it. On a GPU each process starts empty: a fork cannot use CUDA where an import has touched a
device, and which libraries are imported depends on what is installed.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = ["training_processes"]

_IMPORTED_ONCE = (
    "fedafd.learning.server_round",
    "fedafd.learning.parallel",
    "transformers.modeling_utils",
)
_LONGEST_FOLDER = 64
"""The server listens on a socket in the folder for temporary files; a socket's path has at most about 100 bytes."""


def training_processes(device: str) -> SpawnContext | ForkServerContext:
    """The context to start processes in that train on a device of this type ("cpu", "cuda")."""
    if device != "cpu" or len(tempfile.gettempdir().encode()) > _LONGEST_FOLDER:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED_ONCE))
    return context
