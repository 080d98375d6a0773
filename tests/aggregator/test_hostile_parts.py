"""Parts of a model that a hostile site names: nothing of others is had or learnt, and little makes nothing large."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.aggregator.test_bad_uploads import opened
from tests.aggregator.world import World, refused

from fedafd.aggregator.model_parts import model_content
from fedafd.artifacts.folders import pack_folder
from fedafd.artifacts.keys import FEDERATIONS
from fedafd.artifacts.model_parts import BundleBase, FilePieces, ModelBase, Parts, pack_parts
from fedafd.domain.errors import UploadIncompleteError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind
from fedafd.domain.states import RoundState
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.model_repository import get_personalized, list_files
from fedafd.persistence.models import RoundRow
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage.folder import FolderStore

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Caller = tuple[tuple[str, str], ...]
SECRET = b'{"secret": "of south"}' + b" " * 1000


async def with_secret(world: World) -> tuple[str, Caller]:
    """A round that waits for north, in which south has delivered a model; and north, which has delivered before."""
    callers = {name: await world.enrol(name) for name in ("north", "south")}
    for number in (1, 2):
        round_id = await world.start_round()
        await world.prepare()
        for name in ("south",) if number == 2 else ("north", "south"):
            uploads = [await world.upload(callers[name], round_id, world.reps())]
            secret = SECRET if name == "south" else b"{}"
            uploads.append(
                await world.upload(callers[name], round_id, pack_folder({"a.json": secret}), "personalized-model")
            )
            request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads)
            assert (await world.agents.CommitUpload(request, metadata=callers[name])).accepted
        if number == 1:
            async with world.context.database.transaction() as session:
                (await session.get_one(RoundRow, round_id)).state = RoundState.COMPLETED.value
    return round_id, callers["north"]


def asking_for(base: BundleBase | ModelBase, content: bytes) -> bytes:
    pieces = [[1, 0, len(content)]]
    file = FilePieces(path="b.json", sha256=sha256_of(content), size_bytes=len(content), pieces=pieces)
    return pack_parts(Parts(bases=[base], files=[file]), b"")


ATTACKS: dict[str, tuple[BundleBase | ModelBase, bytes]] = {
    "a model of another client, as one's own": (
        ModelBase(version=1, path="a.json", sha256=sha256_of(SECRET)),
        SECRET,
    ),
    "a version that only another client has": (
        ModelBase(version=2, path="a.json", sha256=sha256_of(SECRET)),
        SECRET,
    ),
    "a model of another client, as a bundle": (BundleBase(sha256=sha256_of(SECRET)), SECRET),
    "a bundle of another kind of client": (BundleBase(sha256=sha256_of(b"text")), b"text"),
    "what is no bundle": (BundleBase(sha256=sha256_of(b"reps")), b"reps"),
    "the server's state": (BundleBase(sha256=sha256_of(b"state")), b"state"),
    "another path": (
        ModelBase(version=1, path="../../south/models/1/a.json", sha256=sha256_of(SECRET)),
        SECRET,
    ),
    "what nobody has": (ModelBase(version=1, path="a.json", sha256="0" * 64), b"nothing"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_nobody_gets_or_learns_by_a_hash_what_is_not_its_own(world: World, name: str) -> None:
    round_id, north = await with_secret(world)
    uploads = [await world.upload(north, round_id, world.reps())]
    uploads.append(await world.upload(north, round_id, asking_for(*ATTACKS[name]), "personalized-model"))
    before = {found.key for found in world.context.store.list("federations/trial/clients/")}
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads, model_bytes=100_000)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(request, metadata=north)
    answer = refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "upload-incomplete")
    # The same words, whether there is such a thing or not.
    assert answer == "personalized model: it refers to what is not here, or is not this client's; send the model whole"
    assert {found.key for found in world.context.store.list("federations/trial/clients/")} == before


async def test_its_own_earlier_model_and_bundle_a_client_may_name(world: World) -> None:
    """The same requests as above, of what is north's."""
    round_id, north = await with_secret(world)
    uploads = [await world.upload(north, round_id, world.reps())]
    files = [
        FilePieces(path="b.json", sha256=sha256_of(b"{}"), size_bytes=2, pieces=[[1, 0, 2]]),
        FilePieces(path="c.txt", sha256=sha256_of(b"imag"), size_bytes=4, pieces=[[2, 0, 4]]),
    ]
    bases: list[BundleBase | ModelBase] = [
        ModelBase(version=1, path="a.json", sha256=sha256_of(b"{}")),
        BundleBase(sha256=sha256_of(b"image")),
    ]
    parts = pack_parts(Parts(bases=bases, files=files), b"")
    uploads.append(await world.upload(north, round_id, parts, "personalized-model"))
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads)
    assert (await world.agents.CommitUpload(request, metadata=north)).accepted
    async with world.context.database.snapshot() as session:
        row = await get_personalized(session, await get_client(session, "trial", "north"), 2)
        assert {file.path: world.context.store.get(file.key) for file in await list_files(session, row)} == {
            "b.json": b"{}",
            "c.txt": b"imag",
        }


class _Counting(FolderStore):
    """A folder that counts the bytes that are read of what a federation has: whichever test is the first of a process
    reads the public set's manifest, too."""

    read_bytes = 0

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        for piece in super().stream(key, offset, length):
            self.read_bytes += len(piece) if key.startswith(FEDERATIONS) else 0
            yield piece


@pytest.mark.parametrize(("makes", "told"), [(1 << 40, 1 << 20), (1 << 19, (1 << 19) - 1)])
async def test_a_small_upload_makes_no_large_model(world: World, tmp_path: Path, makes: int, told: int) -> None:
    """Refused before anything is read: what makes more than was told."""
    round_id, (north,) = await opened(world, ClientKind.IMAGE, max_upload_bytes=1 << 20)
    file = FilePieces(path="a.txt", sha256="0" * 64, size_bytes=makes, pieces=[[1, 0, makes]])
    bomb = pack_parts(Parts(bases=[BundleBase(sha256=sha256_of(b"image"))], files=[file]), b"")
    uploads = [await world.upload(north, round_id, world.reps())]
    uploads.append(await world.upload(north, round_id, bomb, "personalized-model"))
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads, model_bytes=told)
    store = _Counting(tmp_path / "store")
    world.use_store(store)
    receipt = await world.agents.CommitUpload(request, metadata=north)
    assert not receipt.accepted
    assert f"its parts make {makes} bytes, and {told} were told" in receipt.rejection_reason
    assert store.read_bytes == 0


async def test_who_names_parts_that_do_not_fit_has_them_read_once_in_a_round(world: World, tmp_path: Path) -> None:
    round_id, (north,) = await opened(world, ClientKind.IMAGE)
    store = _Counting(tmp_path / "store")
    world.use_store(store)
    base, read = BundleBase(sha256=sha256_of(b"image")), []
    for number in range(3):
        file = FilePieces(path=f"{number}.txt", sha256="0" * 64, size_bytes=5, pieces=[[1, 0, 5]])
        uploads = [await world.upload(north, round_id, world.reps())]
        uploads.append(
            await world.upload(
                north, round_id, pack_parts(Parts(bases=[base], files=[file]), b""), "personalized-model"
            )
        )
        store.read_bytes = 0
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.agents.CommitUpload(
                pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads), metadata=north
            )
        refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "upload-incomplete")
        read.append(store.read_bytes)
    assert read == [5, 0, 0]
    # Whole it is taken.
    uploads = [await world.upload(north, round_id, world.reps())]
    uploads.append(await world.upload(north, round_id, pack_folder({"a.json": b"{}"}), "personalized-model"))
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads)
    assert (await world.agents.CommitUpload(request, metadata=north)).accepted


@pytest.mark.parametrize("start", [3, 2**62])
async def test_a_piece_of_more_than_there_is_costs_no_read_of_what_comes_before_it(
    world: World, tmp_path: Path, start: int
) -> None:
    round_id, _ = await opened(world, ClientKind.IMAGE)
    store = _Counting(tmp_path / "store")
    world.use_store(store)
    async with world.context.database.snapshot() as session:
        client = CallingClient.of(await get_client(session, "trial", "site-0"))
    pieces = [[1, 0, 5], [1, start, 5]]
    file = FilePieces(path="b.json", sha256="0" * 64, size_bytes=10, pieces=pieces)
    blob = pack_parts(Parts(bases=[BundleBase(sha256=sha256_of(b"image"))], files=[file]), b"")
    for _ in range(2):
        with pytest.raises(UploadIncompleteError):
            await model_content(world.context, client, round_id, io.BytesIO(blob), most_bytes=100)
    assert store.read_bytes == 0
    assert world.context.failed_parts.has(round_id, client.id)


async def test_no_more_is_told_than_an_upload_may_have(world: World) -> None:
    round_id, (north,) = await opened(world, ClientKind.IMAGE, max_upload_bytes=1 << 20)
    uploads = [await world.upload(north, round_id, world.reps())]
    for told in (-1, (1 << 20) + 1):
        request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads, model_bytes=told)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.agents.CommitUpload(request, metadata=north)
        assert "must be 0 to 1048576" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")


async def test_parts_that_do_not_fit_each_other_are_rejected(world: World) -> None:
    round_id, (north,) = await opened(world, ClientKind.IMAGE)
    uploads = [await world.upload(north, round_id, world.reps())]
    file = FilePieces(path="../evil.json", sha256=sha256_of(b"{}"), size_bytes=2, pieces=[[0, 0, 2]])
    parts = pack_parts(Parts(bases=[], files=[file]), b"{}")
    uploads.append(await world.upload(north, round_id, parts, "personalized-model"))
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads)
    receipt = await world.agents.CommitUpload(request, metadata=north)
    assert not receipt.accepted
    assert "not a plain relative path" in receipt.rejection_reason


async def test_a_program_in_parts_is_a_program(world: World) -> None:
    round_id, (north,) = await opened(world, ClientKind.IMAGE)
    uploads = [await world.upload(north, round_id, world.reps())]
    file = FilePieces(path="run.py", sha256=sha256_of(b"import os"), size_bytes=9, pieces=[[0, 0, 9]])
    uploads.append(
        await world.upload(
            north, round_id, pack_parts(Parts(bases=[], files=[file]), b"import os"), "personalized-model"
        )
    )
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads)
    receipt = await world.agents.CommitUpload(request, metadata=north)
    assert "a file is not one of" in receipt.rejection_reason
