"""An agent that cannot read what the federation sent does not blame its own site's data for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.agent.compared import ComparedSite

from fedafd.agent.outgoing import departure_of
from fedafd.agent.training import LocalTask
from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.artifacts.manifest import read_manifest
from fedafd.artifacts.representations import decode_global_representations, encode_representations
from fedafd.domain.config import SharingConfig
from fedafd.domain.errors import FedafdError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.leaving import LeaveReason


def with_shards_of(task: LocalTask, changed: Callable[[pa.Table], pa.Table]) -> LocalTask:
    """The task of a public set whose training shards are others; all hashes are right."""
    before = read_manifest(task.manifest.read_bytes())
    global_reps = decode_global_representations(
        task.global_representations.read_bytes(),
        num_samples=before.num_samples(),
        embedding_dim=task.config.embedding_dim,
        public_set_sha256=before.sha256,
        dtype=task.config.wire_dtype,
    )
    manifest = json.loads(task.manifest.read_bytes())
    for shard in (entry for entry in manifest["shards"] if entry["split"] == "train"):
        path = task.manifest.parent / "changed.parquet"
        pq.write_table(changed(pq.read_table(task.manifest.parent / shard["sha256"])), path)
        shard.update(sha256=sha256_of(path.read_bytes()), size_bytes=path.stat().st_size)
        path.rename(task.manifest.parent / shard["sha256"])
    task.manifest.write_text(json.dumps(manifest), encoding="utf-8")
    digest = read_manifest(task.manifest.read_bytes()).sha256
    encoded = task.manifest.parent / "global-representations"
    encoded.write_bytes(encode_representations(global_reps, digest, task.config.wire_dtype))
    return replace(task, public_set_sha256=digest, global_representations=encoded)


def with_a_picture_that_is_none(table: pa.Table) -> pa.Table:
    pictures = table.column("image").to_pylist()
    pictures[3]["bytes"] = b"no picture"
    return table.set_column(0, table.schema.field("image"), pa.array(pictures, table.schema.field("image").type))


def a_broken_picture(task: LocalTask) -> LocalTask:
    return with_shards_of(task, with_a_picture_that_is_none)


def too_few_rows(task: LocalTask) -> LocalTask:
    return with_shards_of(task, lambda table: table.slice(1))


def no_manifest(task: LocalTask) -> LocalTask:
    task.manifest.write_text("[]", encoding="utf-8")
    return replace(task, public_set_sha256=sha256_of(b"[]"))


def with_bundle(task: LocalTask, content: bytes) -> LocalTask:
    path = task.manifest.parent / sha256_of(content)
    path.write_bytes(content)
    return replace(task, encoder_bundles=dict.fromkeys(task.encoder_bundles, path))


def a_bundle_without_weights(task: LocalTask) -> LocalTask:
    files = unpack_folder(task.encoder_bundles[Modality.IMAGE].read_bytes())
    del files["model.safetensors"]
    return with_bundle(task, pack_folder(files))


def a_bundle_of_other_weights(task: LocalTask) -> LocalTask:
    files = unpack_folder(task.encoder_bundles[Modality.IMAGE].read_bytes())
    return with_bundle(task, pack_folder(files | {"model.safetensors": b"no tensors"}))


def no_bundle(task: LocalTask) -> LocalTask:
    return with_bundle(task, b"no packed folder")


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (a_broken_picture, LeaveReason.PUBLIC_SET_UNUSABLE),
        (too_few_rows, LeaveReason.PUBLIC_SET_UNUSABLE),
        (no_manifest, LeaveReason.PUBLIC_SET_UNUSABLE),
        (a_bundle_without_weights, LeaveReason.BUNDLE_UNUSABLE),
        (a_bundle_of_other_weights, LeaveReason.BUNDLE_UNUSABLE),
        (no_bundle, LeaveReason.BUNDLE_UNUSABLE),
    ],
)
def test_what_the_federation_sent_is_named_as_the_reason(
    tmp_path: Path, spoilt: Callable[[LocalTask], LocalTask], reason: LeaveReason
) -> None:
    site = ComparedSite(tmp_path, ClientKind.IMAGE)
    with pytest.raises(FedafdError) as raised:
        site.site.train(spoilt(site.task(1)), lambda *_: None)
    assert departure_of(raised.value, SharingConfig()).reason is reason
    assert "private" not in reason.words or "no fault of its own" in reason.words
