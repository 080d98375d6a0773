"""Encoder bundles that a hostile server makes of nothing: a real agent leaves the round, in little time and memory."""

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.agent.fake_aggregator import TOKEN, FakeAggregator

from fedafd.artifacts.folders import pack_folder
from fedafd.artifacts.representations import encode_representations
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.config import WireDtype
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import LeaveReason

DIM, NUM_PUBLIC = 8, 6
MEMORY_BYTES = 400 << 20
"""What the agent may take for the round beyond its peak before: it holds the 55 or 98 MiB of the bundle some times."""
MOST_CPU_SECONDS = 6.0
"""For a round that it leaves; a million tensors took 12 s and 1.4 GB."""


def many_tensors(count: int = 1_000_000) -> bytes:
    """A file of safetensors with so many empty tensors."""
    entries = (f'"t{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for number in range(count))
    header = ("{" + ",".join(entries) + "}").encode()
    return struct.pack("<Q", len(header)) + header


def many_files(count: int = 200_000) -> bytes:
    packed = io.BytesIO()
    for number in range(count):
        packed.write(tarfile.TarInfo(f"{number}.json").tobuf(tarfile.USTAR_FORMAT))
    return packed.getvalue() + b"\0" * 1024


DESCRIBED = json.dumps({"modality": "image", "embedding_dim": DIM, "encoder": {}, "backbone": {}}).encode()
BUNDLES = {
    "a million tensors": lambda: pack_folder({"config.json": DESCRIBED, "model.safetensors": many_tensors()}),
    "two hundred thousand files": many_files,
}


@contextmanager
def agent(folder: Path, address: str, **policy: object) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "agent.yaml").write_text(
        json.dumps(
            {
                "aggregator": address,
                "kind": "image",
                "data": {"adapter": "shapes"},
                "state_dir": str(folder / "site"),
                "threads": 1,
                "policy": policy,
            }
        )
    )
    command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(folder / "agent.yaml"), "--token", TOKEN]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assign(server: FakeAggregator, folder: Path, number: int, bundle: bytes) -> None:
    """A round whose public set and representations are sound."""
    data = load_public_data("shapes", None, {"num_train": NUM_PUBLIC, "num_val": 1, "num_test": 1})
    manifest = write_public_set(data, folder)
    rows = {Modality.IMAGE: np.eye(NUM_PUBLIC, DIM, dtype=np.float32), Modality.TEXT: np.eye(NUM_PUBLIC, DIM)}
    server.assign(number, bundle=bundle, public_set=manifest.to_bytes(), embedding_dim=DIM)
    task = server.task.train
    del task.public_set[1:]
    task.public_set.extend(
        server.put((folder / shard.name).read_bytes(), "public-set/shard") for shard in manifest.shards
    )
    reps = encode_representations(rows, manifest.sha256, WireDtype.FLOAT16)
    task.global_representations.CopyFrom(server.put(reps, "representations"))


async def left(
    server: FakeAggregator, process: subprocess.Popen[bytes], folder: Path, number: int, bundle: bytes
) -> None:
    """The agent has left the round with that bundle."""
    assign(server, folder, number, bundle)
    deadline = time.monotonic() + 240
    while len(server.left) < number:
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("policy", [{}, {"max_bundle_parameters": 10_000_000}], ids=["no policy", "a policy"])
@pytest.mark.parametrize("what", BUNDLES)
def test_a_bundle_of_nothing_costs_the_agent_little_and_it_goes_on(
    tmp_path: Path, what: str, policy: dict[str, object]
) -> None:
    async def scene() -> None:
        server, bundle = FakeAggregator(), BUNDLES[what]()
        await server.start()
        try:
            with agent(tmp_path, server.address, **policy) as process:
                await left(server, process, tmp_path, 1, b"no bundle")  # imports all that a round needs
                before, began = peak_bytes(process), cpu_seconds(process)
                await left(server, process, tmp_path, 2, bundle)
                assert peak_bytes(process) - before < MEMORY_BYTES
                assert cpu_seconds(process) - began < MOST_CPU_SECONDS
                assert not policy or server.left[1] is LeaveReason.POLICY_ENCODER
                assert process.poll() is None
        finally:
            await server.stop()

    asyncio.run(scene())
