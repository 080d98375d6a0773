"""A client is forgotten while what it sent is worked on: real processes, and a distiller that is played here.

The rows of a client are in what its fold makes, alone and as they were sent. So that goes with them, whether the fold
was done before, or a distiller that does not know yet of the round's end stores it after.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from sqlalchemy import text
from tests.end_to_end.test_hostile_clients import own, uploaded
from tests.fuzz.scene import DIM, NUM_PUBLIC, TOKEN, Open, Scene, scene_on
from tests.servers import wait_until

from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.persistence.models import utc_now
from fedafd.persistence.orphan_repository import LATE_WRITES
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2 as dpb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.credentials import bearer_metadata

INTERNAL = bearer_metadata(TOKEN)


@dataclass
class Act:
    """A round of two clients, each of which delivered rows of its own, and both sides that look at it."""

    scene: Scene
    opened: Open
    rows: dict[str, bytes]
    http: httpx.Client
    distillers: DistillationServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.distillers = DistillationServiceStub(self.scene.channel)

    def claim(self, kind: str, position: int = 0) -> tuple[str, Any]:
        """A stage of the round, once it is there, and its claim."""
        query = "SELECT id FROM stages WHERE round_id = :id AND kind = :kind AND position = :position"
        values = {"id": self.opened.round_id, "kind": kind, "position": position}
        wait_until(lambda: bool(self.scene.column(query, **values)), f"the stage {kind}")
        (stage_id,) = self.scene.column(query, **values)
        return stage_id, self.distillers.ClaimStage(
            dpb.ClaimStageRequest(stage_id=stage_id, worker="played"), metadata=INTERNAL
        )

    def store(self, claim: Any, name: str, content: bytes) -> dpb.NamedArtifact:
        """An output of a stage, as a distiller stores it before it tells of it."""
        key = f"{claim.output_prefix}{name}/{sha256_of(content)}"
        self.scene.store.put(key, content)
        artifact = types_pb2.Artifact(sha256=sha256_of(content), size_bytes=len(content), purpose=name, key=key)
        return dpb.NamedArtifact(name=name, artifact=artifact)

    def complete(self, stage_id: str, claim: Any, outputs: dict[str, bytes]) -> None:
        stored = [self.store(claim, name, content) for name, content in outputs.items()]
        request = dpb.CompleteStageRequest(stage_id=stage_id, token=claim.token, outputs=stored, metrics={"rsum": 1.0})
        self.distillers.CompleteStage(request, metadata=INTERNAL)

    def finish(self) -> None:
        """All stages after the first client's fold, so that the round is completed."""
        for position, kind in ((1, "fold"), (0, "merge"), (0, "distil"), (0, "evaluate")):
            stage_id, claimed = self.claim(kind, position)
            outputs = {
                "fold": {"sed-state": b"of one: " + self.rows["site-1"]},
                "merge": {"sed-state": b"of both"},
                "distil": {"server-state": b"state"},
                "evaluate": {"server-state": b"state", "model/config.json": b"{}"},
            }
            self.complete(stage_id, claimed, outputs[kind])

    def holding(self, rows: bytes) -> list[str]:
        """Keys of the objects in which these rows can be read."""
        return [found.key for found in self.scene.store.list("federations/") if rows in self.scene.store.get(found.key)]

    def data(self, method: str = "GET", name: str = "site-0") -> dict[str, Any]:
        answer = self.http.request(method, f"clients/{name}/data")
        assert answer.is_success, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def receipts(self) -> list[dict[str, Any]]:
        events = self.http.get("events", params={"limit": 200}).json()["items"]
        return [event["data"] for event in events if event["kind"] == "client.forgotten"]

    def forgotten(self) -> bool:
        return self.data()["requested_at"] is None


@pytest.fixture
def act(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Act]:
    with scene_on(database_url, redis_url, tmp_path) as scene:
        scene.services.start_control_plane()
        scene.services.wait_for_control_plane()
        config: dict[str, Any] = {"distillation": {"weight_cap": None}, "retention": {"keep_deliveries": 5}}
        opened = scene.collecting(2, quorum={"min_clients": 1}, **config)
        agents, rows = AggregatorServiceStub(scene.channel), {}
        for number, site in enumerate(opened.sites):
            values = np.roll(np.eye(NUM_PUBLIC, DIM, dtype=np.float32), number, axis=1)
            blob = encode_representations({Modality.IMAGE: values}, scene.public_sha256, WireDtype.FLOAT16)
            upload = uploaded(agents, site, opened.round_id, pb.UPLOAD_PURPOSE_REPRESENTATIONS, blob)
            commit = pb.CommitUploadRequest(round_id=opened.round_id, upload_ids=[upload])
            assert agents.CommitUpload(commit, metadata=own(site, "CommitUpload")).accepted
            rows[f"site-{number}"] = values.astype(np.float16).tobytes()
        headers = {"Authorization": f"Bearer {scene.services.api_key}"}
        url = f"{scene.services.url}/v1/federations/{opened.name}/"
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
            yield Act(scene, opened, rows, http)


def test_a_client_that_is_forgotten_while_its_fold_computes_is_in_no_object_of_its_own(act: Act) -> None:
    stage_id, claimed = act.claim("fold", 0)
    asked = act.data("DELETE")
    assert asked["waits_for_round"] == 1 and asked["receipt"] is None
    assert len(act.holding(act.rows["site-0"])) == 1  # the fold works on it
    act.complete(stage_id, claimed, {"sed-state": b"of one: " + act.rows["site-0"]})
    assert len(act.holding(act.rows["site-0"])) == 2 and not act.forgotten()
    act.finish()
    wait_until(act.forgotten, "the receipt")
    assert act.holding(act.rows["site-0"]) == []
    assert {key.split("/")[4] for key in act.holding(act.rows["site-1"])} == {"representations", "sed-state"}
    assert act.holding(b"of both")
    (receipt,) = act.receipts()
    assert (receipt["client"], receipt["representations"], receipt["folds"], receipt["objects"]) == ("site-0", 1, 1, 2)
    assert not act.scene.troubles()


def test_what_a_fold_stores_after_its_round_was_cancelled_and_its_client_forgotten_is_removed(act: Act) -> None:
    stage_id, claimed = act.claim("fold", 0)
    act.data("DELETE")
    assert act.http.post("rounds/1/cancel").is_success
    wait_until(act.forgotten, "the receipt")
    assert act.holding(act.rows["site-0"]) == []

    with pytest.raises(grpc.RpcError) as refused:
        act.complete(stage_id, claimed, {"sed-state": b"of one: " + act.rows["site-0"]})
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert len(act.holding(act.rows["site-0"])) == 1  # stored before the distiller was told
    earlier = {"ended": utc_now() - LATE_WRITES - timedelta(minutes=1), "swept": utc_now() - LATE_WRITES}
    with act.scene.engine.begin() as connection:
        connection.execute(text("UPDATE rounds SET finished_at = :ended, swept_at = :swept"), earlier)
    wait_until(lambda: not act.holding(act.rows["site-0"]), "the second sweep", 60)
    assert not act.scene.troubles()


def test_requests_to_forget_at_the_same_time_are_one(act: Act) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: act.data("DELETE"), range(8)))
    assert len({answer["requested_at"] for answer in answers}) == 1
    act.complete(*act.claim("fold"), {"sed-state": b"of one: " + act.rows["site-0"]})
    act.finish()
    with ThreadPoolExecutor(8) as pool:  # some while it is done, some after
        list(pool.map(lambda _: act.data("DELETE"), range(8)))
    wait_until(act.forgotten, "the receipts")
    events = [event["kind"] for event in act.http.get("events", params={"limit": 200}).json()["items"]]
    assert events.count("client.forget_requested") == events.count("client.forgotten")
    receipts = act.receipts()
    assert [receipt["representations"] for receipt in receipts] == [1] + [0] * (len(receipts) - 1)
    assert act.holding(act.rows["site-0"]) == []
    assert not act.scene.troubles()
