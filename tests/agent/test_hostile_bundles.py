"""Bundles and public sets that a hostile server makes of nothing: a real agent leaves the round, and that is all.

What reads them refuses each, as tests beside it show; here is the process of a site.
"""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save as save_tensors
from tests.agent.fake_aggregator import TOKEN, FakeAggregator
from tests.datasets.test_data_bombs import IMAGES as PIXEL_BOMBS

from fedafd.artifacts.folders import pack_folder
from fedafd.artifacts.representations import encode_representations
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.config import EncoderConfig, WireDtype
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality, ParticipantKind
from fedafd.domain.leaving import LeaveReason
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tokens import build_tokenizer

Change = Callable[[pa.Table], pa.Table]

DIM, NUM_PUBLIC = 8, 6
NO_POLICY: Mapping[str, int] = MappingProxyType({})
SMALL = {"hidden_sizes": [16, 32], "depths": [1, 1]}
FIXED = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
MEMORY_BYTES = 400 << 20
"""What the agent may take for the round beyond its peak before: it holds the 55 or 98 MiB of the bundle some times."""
MOST_CPU = 2.0
"""For a round that it leaves, of what its start and its first round took, imports and all, on this machine."""


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


def far_larger_than_its_weights() -> bytes:
    """300 million numbers, which are not there."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096, "num_attention_heads": 16}
    described = {"modality": "image", "embedding_dim": DIM, "encoder": {"architecture": "vit"}, "backbone": sizes}
    weights = save_tensors({"backbone.model.cls_token": torch.zeros(1, 1, 1024)})
    return pack_folder({"config.json": json.dumps(described).encode(), "model.safetensors": weights})


BUNDLES: dict[str, Callable[[], bytes]] = {
    "an encoder far larger than its weights": far_larger_than_its_weights,
    "a million tensors": lambda: pack_folder({"config.json": DESCRIBED, "model.safetensors": many_tensors()}),
    "two hundred thousand files": many_files,
}


@contextmanager
def agent(
    folder: Path, address: str, policy: Mapping[str, int], kind: ClientKind = ClientKind.IMAGE
) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "agent.yaml").write_text(
        json.dumps(
            {
                "aggregator": address,
                "kind": kind.value,
                "data": {"adapter": "shapes"},
                "state_dir": str(folder / "site"),
                "threads": 1,
                "policy": dict(policy),
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


def forget_peak(process: subprocess.Popen[bytes]) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assign(
    server: FakeAggregator,
    folder: Path,
    number: int,
    bundle: bytes,
    shard: Change | None,
    kind: ClientKind = ClientKind.IMAGE,
) -> None:
    """A round with that bundle, of a public set whose first shard is changed, and sound representations."""
    data = load_public_data("shapes", None, {"num_train": NUM_PUBLIC, "num_val": 1, "num_test": 1})
    manifest = write_public_set(data, folder)
    first, *others = manifest.shards
    if shard is not None:
        pq.write_table(shard(pq.read_table(folder / first.name)), folder / first.name, compression="zstd")
        content = (folder / first.name).read_bytes()
        first = first.model_copy(update={"sha256": sha256_of(content), "size_bytes": len(content)})
        manifest = manifest.model_copy(update={"shards": (first, *others)})
    rows_ND = np.eye(NUM_PUBLIC, DIM, dtype=np.float32)
    server.assign(number, bundle=bundle, public_set=manifest.to_bytes(), embedding_dim=DIM)
    task = server.task.train
    task.encoder_bundles[0].purpose = f"encoder-bundle/{kind.value}"
    del task.public_set[1:]
    task.public_set.extend(
        server.put((folder / each.name).read_bytes(), "public-set/shard") for each in manifest.shards
    )
    rows = {Modality.IMAGE: rows_ND, Modality.TEXT: rows_ND}
    reps = encode_representations(rows, manifest.sha256, WireDtype.FLOAT16)
    task.global_representations.CopyFrom(server.put(reps, "representations"))


async def left(
    server: FakeAggregator,
    process: subprocess.Popen[bytes],
    folder: Path,
    number: int,
    bundle: bytes,
    shard: Change | None = None,
    kind: ClientKind = ClientKind.IMAGE,
) -> None:
    """The agent has left that round."""
    assign(server, folder, number, bundle, shard, kind)
    deadline = time.monotonic() + 240
    while len(server.left) < number:
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Attack:
    """What the server gives the agent in a round."""

    what: str
    bundle: Callable[[], bytes]
    shard: Change | None = None


def tried(
    folder: Path,
    attacks: Sequence[Attack],
    policy: Mapping[str, int] = NO_POLICY,
    kind: ClientKind = ClientKind.IMAGE,
) -> tuple[list[LeaveReason], str]:
    """Why one real agent left each of these rounds, and its log; it is still there, and each round cost it little."""

    async def scene() -> list[LeaveReason]:
        server = FakeAggregator()
        server.invited = ParticipantKind(kind.value)
        await server.start()
        try:
            with agent(folder, server.address, policy, kind) as process:
                await left(server, process, folder, 1, b"no bundle", kind=kind)  # imports all that a round needs
                start_seconds = cpu_seconds(process)
                for number, attack in enumerate(attacks, start=2):
                    forget_peak(process)
                    before, began = peak_bytes(process), cpu_seconds(process)
                    await left(server, process, folder, number, attack.bundle(), attack.shard, kind)
                    assert peak_bytes(process) - before < MEMORY_BYTES, attack.what
                    assert cpu_seconds(process) - began < MOST_CPU * start_seconds, attack.what
                    assert process.poll() is None, attack.what
            return server.left[1:]
        finally:
            await server.stop()

    return asyncio.run(scene()), (folder / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize("policy", [{}, {"max_bundle_parameters": 10_000_000}], ids=["no policy", "a policy"])
def test_a_bundle_of_nothing_costs_the_agent_little_and_it_goes_on(tmp_path: Path, policy: dict[str, int]) -> None:
    reasons, _ = tried(tmp_path, [Attack(what, bundle) for what, bundle in BUNDLES.items()], policy=policy)
    assert not policy or set(reasons) == {LeaveReason.POLICY_ENCODER}


def with_tokenizer(**changes: object) -> bytes:
    """A bundle of a text encoder, sound but for its tokenizer."""
    tokenizer = build_tokenizer(["a dog runs"])
    config = EncoderConfig.model_validate({"architecture": "bigru", "options": {"embedding_size": 8, "hidden_size": 8}})
    files = SampleEncoder(config, Modality.TEXT, dim=DIM, tokenizer=tokenizer).to_files()
    changed = json.loads(files["tokenizer.json"]) | changes
    return pack_folder(files | {"tokenizer.json": json.dumps(changed).encode()})


TOKENIZERS: dict[str, dict[str, object]] = {
    "pads to ten million tokens": {"padding": FIXED | {"strategy": {"Fixed": 10_000_000}}},
    "breaks down where it is read": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "breaks down on a text": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}},
}
"""The latter two by panics of tokenizers' own code."""


def test_a_tokenizer_that_pads_without_end_or_breaks_down_does_not_end_the_agent(tmp_path: Path) -> None:
    attacks = [Attack(what, partial(with_tokenizer, **changes)) for what, changes in TOKENIZERS.items()]
    reasons, log = tried(tmp_path, attacks, kind=ClientKind.TEXT)
    assert reasons == [LeaveReason.BUNDLE_UNUSABLE] * len(TOKENIZERS), log[-2000:]


def captions(table: pa.Table) -> pa.Table:
    """Each of 200 MB, all alike."""
    long = pa.array([["x" * 200_000_000]] * len(table), type=pa.list_(pa.string()))
    return table.set_column(table.column_names.index("captions"), "captions", long)


def picture(table: pa.Table) -> pa.Table:
    """Each of 25,000 x 25,000 pixels."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    bombs = pa.array([{"bytes": PIXEL_BOMBS["PNG"], "path": ""}] * len(table), type=kind)
    return table.set_column(table.column_names.index("image"), "image", bombs)


def test_a_public_set_that_unpacks_to_far_too_much_costs_the_agent_little_and_it_goes_on(tmp_path: Path) -> None:
    config = EncoderConfig.model_validate({"architecture": "resnet", "options": SMALL})
    bundle = pack_folder(SampleEncoder(config, Modality.IMAGE, dim=DIM).to_files())
    _, log = tried(tmp_path, [Attack(shard.__name__, lambda: bundle, shard) for shard in (captions, picture)])
    refused = [json.loads(line) for line in log.splitlines() if "decompression bomb" in line]
    assert {entry["round"] for entry in refused} == {2, 3}, log[-2000:]
