"""What one client uploads to take the aggregator's memory: a real process, whose peak is looked at."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.end_to_end.test_hostile_clients import MIB, MOST_GROWTH_BYTES, own, uploaded
from tests.fuzz.scene import scene_on

from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub


def test_representations_of_a_million_empty_tensors_cost_the_aggregator_nothing(redis_url: str, tmp_path: Path) -> None:
    """55 MiB, which took 12 s of its CPU and 1.4 GB: every one was listed before anything was compared."""
    with scene_on(f"sqlite:///{tmp_path}/test.db", redis_url, tmp_path) as scene:
        opened = scene.collecting(1, max_upload_bytes=64 * MIB)
        (greedy,) = opened.sites
        agents = AggregatorServiceStub(scene.channel)
        entries = (f'"t{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for number in range(1_000_000))
        header = f"{{{','.join(entries)}}}".encode()
        blob = struct.pack("<Q", len(header)) + header
        upload = uploaded(agents, greedy, opened.round_id, pb.UPLOAD_PURPOSE_REPRESENTATIONS, blob)
        before = scene.resident_bytes()
        scene.forget_peak()
        request = pb.CommitUploadRequest(round_id=opened.round_id, upload_ids=[upload])
        answer = agents.CommitUpload(request, metadata=own(greedy, "CommitUpload"), timeout=60)
        growth = scene.peak_bytes() - before
        assert growth < MOST_GROWTH_BYTES, f"{growth / MIB:.0f} MiB"
        assert not answer.accepted and "not readable as safetensors" in answer.rejection_reason
        assert not scene.troubles()
