"""What a service's threads have freed is the system's again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_THREADS, _BLOCKS = 16, 24
_CHILD = f"""
import sys, threading
from pathlib import Path
from fedafd.telemetry.allocator import give_memory_back

def own_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) >> 10

if sys.argv[1] == "giving":
    give_memory_back()
kept, begun = [], threading.Barrier({_THREADS})

def work():
    begun.wait()
    for _ in range(3):
        blocks = []
        for _ in range({_BLOCKS}):
            blocks.append(bytearray(1 << 20))
            kept.append(bytes(3000))  # what stays keeps a heap from shrinking
        del blocks

before = own_mib()
threads = [threading.Thread(target=work) for _ in range({_THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(own_mib() - before)
"""


def grown_mib(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _CHILD, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's malloc")
def test_large_blocks_that_threads_have_freed_are_the_systems_again() -> None:
    assert grown_mib("giving") < 16 < 32 < grown_mib("keeping")
