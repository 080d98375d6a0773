"""What a broken or hostile site may send: each is refused with its reason, and the round and everyone else go on."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from safetensors.numpy import save
from tests.aggregator.world import DIM, World, refused

from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, ParticipantKind, StageKind
from fedafd.persistence.client_repository import get_client, invite_client, revoke_client
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.credentials import bearer_metadata

Caller = tuple[tuple[str, str], ...]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: what is refused here is refused before rows matter."""
    return f"sqlite:///{tmp_path}/test.db"


def tensors(world: World, **changes: Any) -> bytes:
    """A good blob of an image client, with tensors changed; None leaves one out."""
    rows = np.zeros((6, DIM), np.float16)
    rows[:, 0] = 1
    made = {name: value for name, value in ({"image": rows} | changes).items() if value is not None}
    return save(made, metadata={"public_set_sha256": world.public_sha256})


def headed(header: object, data: bytes = b"") -> bytes:
    """Bytes in the form of safetensors with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def off_unit() -> np.ndarray:
    rows = np.zeros((6, DIM), np.float16)
    rows[:, 0] = 1
    rows[4, 1] = 3
    return rows


BAD_BLOBS: dict[str, tuple[Callable[[World], bytes], str]] = {
    "infinite": (lambda w: tensors(w, image=np.full((6, DIM), np.inf, np.float16)), "not finite, first in row 0"),
    "not of unit length": (lambda w: tensors(w, image=off_unit()), r"row 4 has length 3.16\d+, expected unit length"),
    "all zero": (lambda w: tensors(w, image=np.zeros((6, DIM), np.float16)), "row 0 has length 0.0000"),
    "one axis": (lambda w: tensors(w, image=np.ones(6, np.float16)), r"shape \[6\], expected \[6, 8\]"),
    "no axis": (lambda w: tensors(w, image=np.array(1, np.float16)), r"shape \[\], expected \[6, 8\]"),
    "three axes": (lambda w: tensors(w, image=np.ones((6, DIM, 1), np.float16)), r"shape \[6, 8, 1\]"),
    "integers": (lambda w: tensors(w, image=np.ones((6, DIM), np.int8)), "dtype int8, expected float16"),
    "wider numbers": (lambda w: tensors(w, image=np.ones((6, DIM))), "dtype float64, expected float16"),
    "other modality": (
        lambda w: tensors(w, image=None, text=off_unit()),
        r"hold tensors \['text'\], expected \['image'\]",
    ),
    "surplus tensor": (
        lambda w: tensors(w, text=off_unit()),
        r"hold tensors \['image', 'text'\], expected \['image'\]",
    ),
    "no tensor": (lambda w: tensors(w, image=None), r"hold tensors \[\], expected \['image'\]"),
    "thousands of tensors": (
        lambda w: tensors(w, **{f"t{n}" + "x" * 100: np.zeros(0, np.float16) for n in range(3000)}),
        r"hold tensors \[.*\] and 3000 of other names, expected",
    ),
    "no public set named": (lambda w: save({"image": off_unit()}), "are of public set none, but this round is about"),
    "truncated": (lambda w: tensors(w)[:-3], "not readable as safetensors"),
    "truncated in the header": (lambda w: tensors(w)[:20], "not readable as safetensors"),
    "header longer than memory": (lambda w: struct.pack("<Q", 2**62) + b"{}", "not readable as safetensors"),
    "header longer than the blob": (lambda w: struct.pack("<Q", 90_000_000) + b"{}", "not readable as safetensors"),
    "deep header": (lambda w: headed(b"[" * 50_000), "not readable as safetensors"),
    "deep object header": (lambda w: headed(b'{"a":' * 50_000), "not readable as safetensors"),
    "overflowing shape": (
        lambda w: headed({"image": {"dtype": "F16", "shape": [2**62, 8], "data_offsets": [0, 0]}}),
        "not readable as safetensors",
    ),
    "negative shape": (
        lambda w: headed({"image": {"dtype": "F16", "shape": [-6, 8], "data_offsets": [0, 96]}}, b"\0" * 96),
        "not readable as safetensors",
    ),
    "overlapping tensors": (
        lambda w: headed({n: {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]} for n in "ab"}, b"\0" * 4),
        "not readable as safetensors",
    ),
    "unknown dtype": (
        lambda w: headed({"image": {"dtype": "F8_E4M3", "shape": [6, 8], "data_offsets": [0, 48]}}, b"\0" * 48),
        "not readable as safetensors",
    ),
    "a pickle": (lambda w: b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "not readable as safetensors"),
    "nothing sensible": (lambda w: b"\0" * 5000, "not readable as safetensors|hold tensors"),
}


async def opened(world: World, *kinds: ClientKind, **config: object) -> tuple[str, list[Caller]]:
    """A round that waits for one client of each kind."""
    callers = [await world.enrol(f"site-{number}", kind) for number, kind in enumerate(kinds)]
    round_id = await world.start_round(**config)
    await world.prepare()
    return round_id, callers


@pytest.mark.parametrize("name", BAD_BLOBS)
async def test_bad_representations_are_rejected_and_the_round_goes_on(world: World, name: str) -> None:
    make, reason = BAD_BLOBS[name]
    round_id, (bad, good) = await opened(world, ClientKind.IMAGE, ClientKind.IMAGE)
    receipt = await world.deliver(bad, round_id, make(world))
    assert not receipt.accepted
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(receipt.rejection_reason)
    assert len(receipt.rejection_reason) < 1000
    assert (await world.agents.CommitUpload(pb.CommitUploadRequest(round_id=round_id), metadata=bad)) == receipt
    assert (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=bad)).HasField("idle")
    assert (await world.deliver(good, round_id, world.reps())).accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"


async def test_a_pair_client_that_leaves_a_modality_out_is_rejected(world: World) -> None:
    round_id, (pair,) = await opened(world, ClientKind.PAIR)
    receipt = await world.deliver(pair, round_id, world.reps())
    assert not receipt.accepted
    assert "hold tensors ['image'], expected ['image', 'text']" in receipt.rejection_reason


async def test_int8_needs_its_scales(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE, wire_dtype="int8")
    receipt = await world.deliver(site, round_id, tensors(world, image=np.ones((6, DIM), np.int8)))
    assert "hold tensors ['image'], expected ['image', 'image.scale']" in receipt.rejection_reason


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
async def test_int8_scales_must_be_finite(world: World, scale: float) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE, wire_dtype="int8")
    blob = tensors(world, image=np.ones((6, DIM), np.int8), **{"image.scale": np.full(6, scale, np.float32)})
    assert "not finite" in (await world.deliver(site, round_id, blob)).rejection_reason


# -- manifests and chunks --------------------------------------------------------------------------------------------


def begin(round_id: str, blob: bytes, **changes: Any) -> pb.BeginUploadRequest:
    values: dict[str, Any] = {
        "round_id": round_id,
        "upload_purpose": pb.UPLOAD_PURPOSE_REPRESENTATIONS,
        "sha256": sha256_of(blob),
        "size_bytes": len(blob),
        "chunk_size_bytes": 65536,
        "chunk_sha256": [sha256_of(blob[i : i + 65536]) for i in range(0, len(blob), 65536)],
    }
    return pb.BeginUploadRequest(**values | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"upload_purpose": 0}, "upload_purpose 0 is none of representations, personalized-model"),
        ({"upload_purpose": 99}, "upload_purpose 99 is none of"),
        ({"size_bytes": 0}, "size is 0 bytes; must be 1 to"),
        ({"size_bytes": -1}, "size is -1 bytes"),
        ({"size_bytes": 2**40}, "size is 1099511627776 bytes; must be 1 to 2097152"),
        ({"chunk_size_bytes": 1}, "chunk size is 1; must be 65536 to"),
        ({"chunk_size_bytes": 2**40}, "chunk size is"),
        ({"chunk_sha256": []}, "0 chunk hashes do not fit"),
        ({"chunk_sha256": ["a" * 64] * 9}, "9 chunk hashes do not fit"),
        ({"sha256": "A" * 64}, "is not a SHA-256 in lower-case hexadecimal"),
        ({"sha256": "../../../etc/passwd"}, "a hash is not a SHA-256"),
        ({"chunk_sha256": ["short"]}, "a hash is not a SHA-256"),
    ],
)
async def test_a_manifest_that_does_not_add_up_is_refused(world: World, changes: dict[str, Any], reason: str) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE, max_upload_bytes=2 * 2**20)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.BeginUpload(begin(round_id, b"blob", **changes), metadata=site)
    assert reason in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")
    assert (await world.deliver(site, round_id, world.reps())).accepted


async def test_a_blob_announced_twice_with_other_chunks_is_refused(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    await world.agents.BeginUpload(begin(round_id, b"blob"), metadata=site)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.BeginUpload(begin(round_id, b"blob", chunk_sha256=["a" * 64]), metadata=site)
    assert "announced before with other chunks" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")


async def test_a_client_cannot_announce_without_end(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    for number in range(16):
        await world.agents.BeginUpload(begin(round_id, b"%d" % number), metadata=site)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.BeginUpload(begin(round_id, b"one more"), metadata=site)
    assert "16 blobs were announced" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")


async def send(world: World, caller: Caller, upload_id: str, index: int, data: bytes) -> None:
    message = pb.UploadChunksRequest(upload_id=upload_id, index=index, data=data)
    await world.agents.UploadChunks(iter([message]), metadata=caller)


@pytest.mark.parametrize(
    ("index", "data", "reason"),
    [
        (1, b"blob", "has no chunk 1; it has 1"),
        (2**31 - 1, b"blob", "has no chunk"),
        (0, b"blub", "chunk 0 does not have the announced hash; send it again"),
        (0, b"", "chunk 0 has 0 bytes, announced were 4"),
        (0, b"blob" * 100_000, "chunk 0 has 400000 bytes, announced were 4"),
    ],
)
async def test_a_chunk_that_was_not_announced_is_refused_and_stays_missing(
    world: World, index: int, data: bytes, reason: str
) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    begun = await world.agents.BeginUpload(begin(round_id, b"blob"), metadata=site)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await send(world, site, begun.upload_id, index, data)
    assert reason in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")
    assert list((await world.agents.BeginUpload(begin(round_id, b"blob"), metadata=site)).missing_chunks) == [0]


async def test_chunks_whose_whole_has_another_hash_are_rejected(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    blob = world.reps()
    begun = await world.agents.BeginUpload(begin(round_id, blob, sha256="a" * 64), metadata=site)
    await send(world, site, begun.upload_id, 0, blob)
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[begun.upload_id])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(request, metadata=site)
    assert "whole blob does not have" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")


async def test_a_commit_before_all_chunks_came_can_be_repeated_afterwards(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    begun = await world.agents.BeginUpload(begin(round_id, world.reps()), metadata=site)
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[begun.upload_id])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(request, metadata=site)
    assert "chunk 0 has not arrived" in refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "upload-incomplete")
    assert (await world.deliver(site, round_id, world.reps())).accepted


@pytest.mark.parametrize("count", [0, 2])
async def test_a_delivery_holds_representations_exactly_once(world: World, count: int) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    blobs = [world.reps(), tensors(world)][:count]
    uploads = [await world.upload(site, round_id, blob) for blob in blobs]
    receipt = await world.agents.CommitUpload(
        pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads), metadata=site
    )
    assert not receipt.accepted
    assert f"at most one model and one of weights; found {count}, 0, 0" in receipt.rejection_reason


# -- who may ---------------------------------------------------------------------------------------------------------


async def test_another_clients_upload_can_neither_be_filled_nor_committed(world: World) -> None:
    round_id, (mine, theirs) = await opened(world, ClientKind.IMAGE, ClientKind.IMAGE)
    upload_id = await world.upload(mine, round_id, world.reps())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await send(world, theirs, upload_id, 0, world.reps())
    refused(raised, grpc.StatusCode.NOT_FOUND, "not-found")
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(request, metadata=theirs)
    refused(raised, grpc.StatusCode.NOT_FOUND, "not-found")
    assert (await world.agents.CommitUpload(request, metadata=mine)).accepted


async def test_nothing_is_taken_after_the_round_closed(world: World) -> None:
    round_id, (early, late) = await opened(world, ClientKind.IMAGE, ClientKind.IMAGE)
    begun = await world.agents.BeginUpload(begin(round_id, b"blob"), metadata=late)
    await world.agents.LeaveRound(
        pb.LeaveRoundRequest(round_id=round_id, leave_reason=pb.LEAVE_REASON_DISK_FULL), metadata=late
    )
    await world.deliver(early, round_id, world.reps())
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"
    calls = {
        "begin": world.agents.BeginUpload(begin(round_id, b"late"), metadata=late),
        "chunk": send(world, late, begun.upload_id, 0, b"blob"),
        "commit": world.agents.CommitUpload(pb.CommitUploadRequest(round_id=round_id), metadata=late),
        "leave": world.agents.LeaveRound(pb.LeaveRoundRequest(round_id=round_id), metadata=late),
    }
    for call in calls.values():
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert "waits for nothing from client site-1" in refused(
            raised, grpc.StatusCode.FAILED_PRECONDITION, "round-closed"
        )


async def test_an_unknown_round_or_upload_is_refused(world: World) -> None:
    _, (site,) = await opened(world, ClientKind.IMAGE)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.BeginUpload(begin("0" * 32, b"blob"), metadata=site)
    refused(raised, grpc.StatusCode.NOT_FOUND, "not-found")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await send(world, site, "0" * 32, 0, b"blob")
    refused(raised, grpc.StatusCode.NOT_FOUND, "not-found")


async def test_a_client_revoked_in_the_middle_of_its_upload_is_shut_out_and_the_round_goes_on(world: World) -> None:
    round_id, (bad, good) = await opened(world, ClientKind.IMAGE, ClientKind.IMAGE)
    upload_id = await world.upload(bad, round_id, world.reps())
    async with world.context.database.transaction() as session:
        await revoke_client(session, await get_client(session, "trial", "site-0"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id]), metadata=bad)
    assert "was revoked" in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
    assert (await world.deliver(good, round_id, world.reps())).accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"


@pytest.mark.parametrize(
    "metadata", [(), (("authorization", "Basic x"),), bearer_metadata(""), bearer_metadata("fedafd-client.x")]
)
async def test_calls_without_a_good_credential_are_refused(world: World, metadata: Caller) -> None:
    calls = [
        world.agents.FetchTask(pb.FetchTaskRequest(), metadata=metadata),
        world.agents.ReportProgress(pb.ReportProgressRequest(), metadata=metadata),
        world.agents.BeginUpload(pb.BeginUploadRequest(), metadata=metadata),
        world.agents.CommitUpload(pb.CommitUploadRequest(), metadata=metadata),
        world.agents.LeaveRound(pb.LeaveRoundRequest(), metadata=metadata),
        send(world, metadata, "0", 0, b""),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_an_invitation_that_is_unknown_expired_or_revoked_is_refused(world: World) -> None:
    async with world.context.database.transaction() as session:
        _, expired = await invite_client(session, "trial", "late", ParticipantKind.IMAGE, timedelta(seconds=-1))
        row, revoked = await invite_client(session, "trial", "gone", ParticipantKind.IMAGE, timedelta(hours=1))
        await revoke_client(session, row)
    for token, reason in (
        (expired, "has expired"),
        (revoked, "not known or was revoked"),
        ("x", "not known"),
        ("", "not"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.agents.Enroll(pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE))
        assert reason in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
