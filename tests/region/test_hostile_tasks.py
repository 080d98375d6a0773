"""Tasks that no honest upper federation sends: the region leaves the round with a code, and does the next one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from tests.agent.fake_aggregator import CREDENTIAL, FakeAggregator
from tests.region.test_region import ScriptedSite
from tests.region.world import Services, agent, at_work, region, services, until

from fedafd.artifacts.manifest import Manifest, Shard
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype, parse_federation_config
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import LeaveReason
from fedafd.persistence.stage_repository import list_stages
from fedafd.proto.v1 import aggregator_pb2 as pb

_BLOB = b"shard" * 100


class FakeUpper(FakeAggregator):
    """Takes a region."""

    says = ""
    """In the place of a receipt."""

    async def CommitUpload(self, request: pb.CommitUploadRequest, context: Any) -> pb.CommitUploadResponse:
        answer = await super().CommitUpload(request, context)
        answer.receipt = self.says or answer.receipt
        return answer

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:
        return pb.EnrollResponse(federation_id="upper", client_id="1", client_name="north", credential=CREDENTIAL)

    def ask(self, number: int) -> pb.TrainTask:
        """A task as an honest upper federation gives it."""
        shard = self.put(_BLOB, "public-set/shard")
        entry = Shard(split="train", name="a.parquet", sha256=shard.sha256, size_bytes=len(_BLOB), num_rows=4)
        manifest = self.put(Manifest(shards=(entry,)).to_bytes(), "public-set/manifest")
        self.set_task(
            train=pb.TrainTask(
                round_id=f"round-{number}",
                round_number=number,
                federation_config_json=parse_federation_config({"name": "upper"}).sites_json(),
                public_set_sha256=manifest.sha256,
                public_set=[manifest, shard],
                global_representations=self.put(_representations(manifest.sha256), "representations"),
                encoder_bundles=[self.put(name.encode(), f"encoder-bundle/{name}") for name in ("image", "text")],
            )
        )
        return self.task.train


def _representations(public_set_sha256: str) -> bytes:
    rows = np.eye(4, 256, dtype=np.float32)
    return encode_representations(dict.fromkeys(Modality, rows), public_set_sha256, WireDtype.FLOAT16)


@pytest.fixture
async def below(tmp_path: Path) -> AsyncIterator[Services]:
    async with services(tmp_path / "below") as made:
        await made.federation("north")
        yield made


@pytest.fixture
async def upper() -> AsyncIterator[FakeUpper]:
    made = FakeUpper()
    await made.start()
    yield made
    await made.stop()


def _other_manifest(upper: FakeUpper, task: pb.TrainTask) -> None:
    entry = Shard(split="train", name="b.parquet", sha256="b" * 64, size_bytes=9, num_rows=4)
    task.public_set[0].CopyFrom(upper.put(Manifest(shards=(entry,)).to_bytes(), "public-set/manifest"))


def _other_bytes(upper: FakeUpper, task: pb.TrainTask) -> None:
    manifest = upper.put(upper.blobs[task.public_set_sha256] + b" ", "public-set/manifest")
    task.public_set[0].CopyFrom(manifest)
    task.public_set_sha256 = manifest.sha256


def _no_manifest(upper: FakeUpper, task: pb.TrainTask) -> None:
    manifest = upper.put(b"{}", "public-set/manifest")
    task.public_set[0].CopyFrom(manifest)
    task.public_set_sha256 = manifest.sha256


HOSTILE: dict[str, tuple[Callable[[FakeUpper, pb.TrainTask], object], LeaveReason]] = {
    "nested configuration": (
        lambda _, task: setattr(task, "federation_config_json", "[" * 100_000),
        LeaveReason.CONFIGURATION_UNSUITABLE,
    ),
    "configuration that is no JSON": (
        lambda _, task: setattr(task, "federation_config_json", "{"),
        LeaveReason.CONFIGURATION_UNSUITABLE,
    ),
    "no public set": (lambda _, task: task.ClearField("public_set"), LeaveReason.TASK_NOT_UNDERSTOOD),
    "the manifest of another public set": (_other_manifest, LeaveReason.TASK_NOT_UNDERSTOOD),
    "a manifest in other bytes than its hash is of": (_other_bytes, LeaveReason.TASK_NOT_UNDERSTOOD),
    "a manifest that is none": (_no_manifest, LeaveReason.PUBLIC_SET_UNUSABLE),
    "a public set without one of its shards": (
        lambda _, task: task.public_set.pop(),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "no encoder": (lambda _, task: task.ClearField("encoder_bundles"), LeaveReason.TASK_NOT_UNDERSTOOD),
    "no encoder of texts": (lambda _, task: task.encoder_bundles.pop(), LeaveReason.TASK_NOT_UNDERSTOOD),
    "an encoder of another purpose": (
        lambda _, task: setattr(task.encoder_bundles[0], "purpose", "../../../../elsewhere"),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "global representations of another purpose": (
        lambda _, task: setattr(task.global_representations, "purpose", "server-state"),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "global representations of a purpose that leads elsewhere": (
        lambda _, task: setattr(task.global_representations, "purpose", "../../../../elsewhere"),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "round 0": (lambda _, task: task.ClearField("round_number"), LeaveReason.TASK_NOT_UNDERSTOOD),
    "a path in place of a hash": (
        lambda _, task: setattr(task.encoder_bundles[0], "sha256", "../../credential.json"),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "length below 0": (
        lambda _, task: setattr(task.encoder_bundles[0], "size_bytes", -5),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
}


@pytest.mark.parametrize("accepts", [True, False])
async def test_what_the_upper_federation_says_of_a_delivery_is_kept_as_a_short_text(
    upper: FakeUpper, below: Services, tmp_path: Path, accepts: bool
) -> None:
    """A receipt that does not fit its column ended the region, and reasons were kept as they came."""
    words = "no\x1b[2J\x1b]0;owned\x07\r\nthanks \u202e" + "!" * 1_000_000
    upper.says, upper.reject = words, None if accepts else words
    upper.ask(1)
    site = ScriptedSite("a")
    site.may_end.set()
    token = await below.invite("north", "a", "image")
    make = partial(region, tmp_path / "region", upper, below, "north", "fedafd-enrol.good")  # type: ignore[arg-type]
    with capture_logs():
        async with (
            at_work(partial(agent, tmp_path / "a", below, "a", "image", token, trainer=site)),
            at_work(make) as running,
        ):
            over = await below.over("north", 1, seconds=60)
            assert not running.done()
    kept = over.upstream_receipt if accepts else over.reason
    assert kept is not None and "thanks" in kept
    assert len(kept) <= (64 if accepts else 2100)
    assert not any(mark in kept for mark in "\x1b\x07\r\n\u202e")
    assert over.state == ("completed" if accepts else "failed")


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_task_that_makes_no_sense_is_left_with_a_code_and_the_next_is_done(
    upper: FakeUpper, below: Services, tmp_path: Path, what: str
) -> None:
    change, reason = HOSTILE[what]
    change(upper, upper.ask(1))

    async def left() -> bool:
        assert not running.done(), running.exception()
        return bool(upper.left)

    async def begun() -> bool:
        assert not running.done(), running.exception()
        with suppress(Exception):
            return (await below.round("north", 2))[0] is not None
        return False

    with capture_logs():
        make = partial(region, tmp_path / "region", upper, below, "north", "fedafd-enrol.good")  # type: ignore[arg-type]
        async with at_work(make) as running:
            await until(left, "the region to leave", seconds=20)
            assert upper.left == [reason]
            upper.ask(2)
            await until(begun, "the next round", seconds=20)
    row, _ = await below.round("north", 2)
    async with below.database.snapshot() as session:
        (prepared,) = await list_stages(session, row.id)
    assert set(prepared.outputs or {}) == {"representations", "encoder-bundle/image", "encoder-bundle/text"}
    with pytest.raises(Exception, match="round 1"):
        await below.round("north", 1)
