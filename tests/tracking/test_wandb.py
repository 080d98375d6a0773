"""Metrics in the offline files of Weights & Biases, read back; without the library the extra is told."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedafd.domain.errors import ConfigurationError
from fedafd.tracking.run import TrackedRun
from fedafd.tracking.trackers import Trackers
from fedafd.tracking.wandb import WandB


def opened(output: Path, told: list[str], *, seed: int = 0, **options: Any) -> Trackers:
    run = TrackedRun(name=f"iid/fedafd/seed-{seed}", id=f"run/{seed}", tags={"strategy": "fedafd"}, output=output)
    return Trackers({"wandb": options}, run, told.append, close_seconds=240)


def records(content: bytes) -> Iterator[bytes]:
    """The file is a log of LevelDB's form: blocks of 32 KiB, each of chunks with a checksum, a length and a kind."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def hosts(content: bytes) -> set[str]:
    """The machine's name in a file."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = [Record.FromString(record) for record in records(content)]
    return {record.run.host for record in found if record.WhichOneof("record_type") == "run"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The history of all runs below a folder, without what the library adds."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(folder.rglob("*.wandb")):
        for record in map(Record.FromString, records(path.read_bytes())):
            named = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if named:
                found.append({name: value for name, value in named.items() if not name.startswith("_")})
    return found


def test_runs_side_by_side_and_taken_up_again_have_each_point_once(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install 'fedafd[wandb]'")
    told: list[str] = []
    other = opened(tmp_path, told, seed=1)
    other.show({1: {"server/rsum": 5.0}})
    for last in (1, 2):
        trackers = opened(tmp_path, told)
        trackers.show({step: {"server/rsum": float(step)} for step in range(1, last + 1)})
        trackers.show({1: {"server/rsum": 1.0, "late": 9.0}, 2: {"server/rsum": 2.0}})
        trackers.close()
    other.close()
    assert told == []
    deadline = time.monotonic() + 60
    while len(rows(tmp_path)) < 3 and time.monotonic() < deadline:  # the library's process writes on after its answer
        time.sleep(0.05)
    by_round = sorted((row["round"], name, row[name]) for row in rows(tmp_path) for name in row if name != "round")
    assert by_round == [(1, "late", 9.0), (1, "server/rsum", 1.0), (1, "server/rsum", 5.0), (2, "server/rsum", 2.0)]
    kept = [path for path in tmp_path.glob("wandb/offline-run-*/**/*") if path.is_file() and path.parent.name != "logs"]
    assert {path.suffix for path in kept} == {".wandb"}
    for path in kept:
        assert path.parent.name.endswith(path.stem.removeprefix("run-"))
        content = path.read_bytes()
        assert all(private.encode() not in content for private in (str(Path.cwd()), sys.argv[0]))
        assert hosts(content) == {"-"}


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'fedafd\[wandb\]'"):
        WandB(TrackedRun(name="a", id="1", tags={}, output=tmp_path), {})


def test_an_option_that_it_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tracking.wandb.entity: not known; allowed: path, project"):
        WandB(TrackedRun(name="a", id="1", tags={}, output=tmp_path), {"entity": "me"})
