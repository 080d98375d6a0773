"""Uploads past the aggregator: a site posts parts to a real MinIO by forms, and nothing counts before it is checked."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from tests.aggregator.world import World
from tests.servers import Minio, free_port

from fedafd.agent.chunks import ChunkedFile
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.session import AgentSession
from fedafd.agent.state import Credential
from fedafd.aggregator.direct_uploads import DirectUploads
from fedafd.aggregator.server import make_server
from fedafd.aggregator.sweeping import sweep_next
from fedafd.artifacts.keys import RoundObjects
from fedafd.domain.config import DirectUploadConfig
from fedafd.domain.errors import ArtifactNotFoundError, ConfigurationError, UploadIncompleteError
from fedafd.domain.kinds import ParticipantKind, UploadPurpose
from fedafd.domain.states import RoundState
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.models import RoundRow, utc_now
from fedafd.persistence.orphan_repository import LATE_WRITES
from fedafd.persistence.participation_repository import list_participations
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage import StoreSettings, UploadForm, open_store, open_store_for_sites
from fedafd.storage.s3 import S3Store

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
REPRESENTATIONS = UploadPurpose.REPRESENTATIONS


def settings_of(minio: Minio, bucket: str) -> StoreSettings:
    keys = {"access_key": minio.access_key, "secret_key": minio.secret_key}
    return StoreSettings(url=f"s3://{bucket}", endpoint=minio.endpoint, secure=False, **keys)


@pytest.fixture
def bucket(minio: Minio) -> S3Store:
    store = open_store(settings_of(minio, f"b{uuid.uuid4().hex}"))
    assert isinstance(store, S3Store)
    store.make_bucket()
    return store


@dataclass
class Scene:
    world: World
    address: str
    minio: Minio
    bucket: S3Store
    folder: Path

    async def agent(self, name: str, url: str | None = None) -> AggregatorConnection:
        """Of an agent that sends to the store at `url`, by default the right one."""
        async with self.world.context.database.transaction() as session:
            _, token = await invite_client(session, "trial", name, ParticipantKind.IMAGE, timedelta(hours=1))
        first = AggregatorConnection(self.address, stop=asyncio.Event())
        credential: Credential = await first.enrol(token, ParticipantKind.IMAGE, b"n" * 32)
        await first.close()
        folder = self.folder / name
        folder.mkdir()
        return AggregatorConnection(
            self.address,
            stop=asyncio.Event(),
            credential=credential,
            session=AgentSession(folder),
            direct=DirectUploadConfig(url=url or f"http://{self.minio.endpoint}"),
        )

    def blob(self, content: bytes) -> ChunkedFile:
        path = self.folder / uuid.uuid4().hex
        path.write_bytes(content)
        return ChunkedFile.of(path)

    @property
    def bytes_through_the_aggregator(self) -> float:
        metrics = self.world.context.metrics.metrics.registry
        return metrics.get_sample_value("fedafd_aggregator_upload_bytes_total") or 0.0


@pytest.fixture
async def scene(world: World, minio: Minio, bucket: S3Store, tmp_path: Path) -> AsyncIterator[Scene]:
    for found in world.context.store.list(""):
        bucket.put(found.key, world.context.store.get(found.key))
    world.use_store(bucket)
    for_sites = open_store_for_sites(settings_of(minio, bucket.bucket), f"http://{minio.endpoint}")
    object.__setattr__(world.context, "direct", DirectUploads(for_sites))
    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Scene(world, f"127.0.0.1:{port}", minio, bucket, tmp_path)
    await server.stop(None)


async def test_a_delivery_goes_to_the_store_itself_and_is_checked_as_any(scene: Scene) -> None:
    north = await scene.agent("north")
    round_id = await scene.world.start_round()
    await scene.world.prepare()
    blob = scene.blob(scene.world.reps())
    upload_id = await north.upload(round_id, REPRESENTATIONS, blob)
    receipt = await north.commit(round_id, [upload_id], {}, 0)
    assert receipt.accepted, receipt.rejection_reason
    assert scene.bytes_through_the_aggregator == 0
    async with scene.world.context.database.transaction() as session:
        ((part, _),) = await list_participations(session, round_id)
    assert part.bytes_up == blob.size_bytes
    await north.close()


async def test_a_large_blob_goes_in_parts_and_what_arrived_by_either_way_counts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.aggregator.direct_uploads._PARTS_AT_ONCE", 2)
    north = await scene.agent("north")
    round_id = await scene.world.start_round(accept_personalized_models=True)
    await scene.world.prepare()
    content = bytes(range(256)) * (5 << 14) + b"the rest"  # 20 MiB
    blob = scene.blob(content * 3)
    sent: list[int] = []
    assert north._direct is not None
    post, north._direct._on_sent = north._direct._post, sent.append

    async def post_once(client: httpx.AsyncClient, form: pb.StoreForm, file: ChunkedFile) -> bool:
        return len(sent) < 3 and await post(client, form, file)

    monkeypatch.setattr(north._direct, "_post", post_once)
    upload_id = await north.upload(round_id, UploadPurpose.PERSONALIZED_MODEL, blob)
    assert sent == [16 << 20] * 3
    assert scene.bytes_through_the_aggregator == blob.size_bytes - sum(sent)
    key = next(found.key for found in scene.bucket.list("") if upload_id in found.key).rpartition("/")[0]
    assert scene.bucket.arrived_file(key, scene.folder).read_bytes() == content * 3
    await north.close()


def kept_bytes(scene: Scene, upload_id: str) -> int:
    """All that the store keeps of an upload."""
    return sum(found.size_bytes for found in scene.bucket.list("") if upload_id in found.key)


async def test_streams_that_begin_at_every_chunk_keep_no_byte_twice(scene: Scene) -> None:
    """Each would be parts of its own beside those of the others, many times what the client may send."""
    north = await scene.agent("north")
    north._direct = None
    round_id = await scene.world.start_round(accept_personalized_models=True)
    await scene.world.prepare()
    blob = scene.blob(bytes(range(256)) * (12 << 12))  # 12 MiB
    upload_id = await north.upload(round_id, UploadPurpose.PERSONALIZED_MODEL, blob)
    for first in range(4):
        await north._send(upload_id, range(first, len(blob.chunk_sha256)), blob)
    assert kept_bytes(scene, upload_id) == blob.size_bytes
    await north.close()


async def test_forms_that_are_asked_for_again_and_again_come_to_an_end(scene: Scene) -> None:
    """Posted at last, in the order that the store likes least, they would be parts that overlap."""
    north = await scene.agent("north")
    round_id = await scene.world.start_round(accept_personalized_models=True)
    await scene.world.prepare()
    blob = scene.blob(bytes(range(256)) * (80 << 12))  # 80 MiB
    announcement = blob.announcement(round_id, UploadPurpose.PERSONALIZED_MODEL)
    announcement.direct = True
    forms: dict[int, int] = {}
    for first in range(0, 60, 5):
        begun = await north._ask("begin upload", "BeginUpload", announcement)
        forms |= {form.offset_bytes: form.length_bytes for form in begun.forms}
        await north._send(begun.upload_id, range(first, first + 5), blob)
    assert forms and sum(forms.values()) <= 3 * blob.size_bytes
    await north.close()


@pytest.mark.parametrize("which", ["nobody listens", "not the store that is named", "the form is spoilt"])
async def test_what_the_store_does_not_take_goes_through_the_aggregator(
    scene: Scene, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = None
    if which == "nobody listens":
        url = f"http://127.0.0.1:{free_port()}"
        moved = open_store_for_sites(settings_of(scene.minio, scene.bucket.bucket), url)
        object.__setattr__(scene.world.context, "direct", DirectUploads(moved))
    elif which == "not the store that is named":
        url = "http://127.0.0.1:1"
    else:
        real = S3Store.append_form

        def spoilt(self: S3Store, key: str, offset: int, length: int, lifetime: timedelta) -> UploadForm:
            form = real(self, key, offset, length, lifetime)
            return UploadForm(form.url, {**form.fields, "key": "public-sets/mine"}, offset, length)

        monkeypatch.setattr(S3Store, "append_form", spoilt)
    north = await scene.agent("north", url)
    round_id = await scene.world.start_round()
    await scene.world.prepare()
    blob = scene.blob(scene.world.reps())
    upload_id = await north.upload(round_id, REPRESENTATIONS, blob)
    assert (await north.commit(round_id, [upload_id], {}, 0)).accepted
    assert scene.bytes_through_the_aggregator == blob.size_bytes
    assert scene.bucket.stat("public-sets/mine") is None
    await north.close()


async def test_other_bytes_than_those_announced_count_for_nothing(scene: Scene) -> None:
    north = await scene.agent("north")
    round_id = await scene.world.start_round()
    await scene.world.prepare()
    blob = scene.blob(scene.world.reps())
    honest = blob.path.read_bytes()
    blob.path.write_bytes(bytes(len(honest)))
    upload_id = await north.upload(round_id, REPRESENTATIONS, blob)
    with pytest.raises(UploadIncompleteError, match="damaged in the store"):
        await north.commit(round_id, [upload_id], {}, 0)
    blob.path.write_bytes(honest)
    assert (await north.commit(round_id, [await north.upload(round_id, REPRESENTATIONS, blob)], {}, 0)).accepted
    await north.close()


@pytest.mark.parametrize("parts", [1, 2])
def test_what_is_sent_after_the_check_is_not_stored(
    bucket: S3Store, tmp_path: Path, database_url: str, parts: int
) -> None:
    """A form stays good for a while: in the moment between check and copy it brings other bytes of the same length."""
    length = 5 << 20
    forms = [bucket.append_form("coming", n * length, length, timedelta(minutes=1)) for n in range(parts)]
    for form in forms:
        post(form, b"a" * length)
    assert bucket.arrived_file("coming", tmp_path / "scratch").read_bytes() == b"a" * parts * length
    post(forms[-1], b"b" * length)
    with pytest.raises(ArtifactNotFoundError):
        bucket.finish("coming", "whole")
    assert bucket.stat("whole") is None
    bucket.arrived_file("coming", tmp_path / "scratch")
    bucket.finish("coming", "whole")
    assert bucket.get("whole") == b"a" * (parts - 1) * length + b"b" * length


def post(form: UploadForm, data: bytes) -> None:
    answer = httpx.post(form.url, data=dict(form.fields), files={"file": ("part", data)}, trust_env=False)
    assert answer.status_code == 204


async def test_who_sends_other_bytes_while_they_are_checked_has_not_delivered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = await scene.agent("north")
    round_id = await scene.world.start_round()
    await scene.world.prepare()
    blob = scene.blob(scene.world.reps())
    upload_id = await north.upload(round_id, REPRESENTATIONS, blob)
    key = next(found.key for found in scene.bucket.list("") if upload_id in found.key).rpartition("/")[0]
    read, other = scene.bucket.arrived_file, b"\0" * blob.size_bytes

    def read_and_changed(arriving: str, scratch: Path, /) -> Path:
        path = read(arriving, scratch)
        post(scene.bucket.append_form(key, 0, blob.size_bytes, timedelta(minutes=1)), other)
        return path

    monkeypatch.setattr(scene.bucket, "arrived_file", read_and_changed)
    with pytest.raises(UploadIncompleteError):
        await north.commit(round_id, [upload_id], {}, 0)
    elsewhere = [found.key for found in scene.bucket.list("") if not found.key.startswith(key)]
    assert not any(scene.bucket.get(name) == other for name in elsewhere)
    monkeypatch.undo()
    with pytest.raises(UploadIncompleteError, match="begin it again"):
        await north.commit(round_id, [upload_id], {}, 0)
    assert (await north.commit(round_id, [await north.upload(round_id, REPRESENTATIONS, blob)], {}, 0)).accepted
    await north.close()


async def test_what_comes_by_a_form_after_its_round_was_swept_goes_too(scene: Scene) -> None:
    """Also where the client was forgotten meanwhile: nothing names it, so no other deletion would find it."""
    north = await scene.agent("north")
    round_id = await scene.world.start_round()
    await scene.world.prepare()
    async with scene.world.context.database.transaction() as session:
        row = await session.get_one(RoundRow, round_id)
        row.state, row.finished_at = RoundState.CANCELLED.value, utc_now() - LATE_WRITES - timedelta(minutes=1)
        # The last sweep was at the last moment at which a form of this round is good.
        row.swept_at = row.finished_at + timedelta(minutes=15)
        arriving = RoundObjects(row.federation_id, row.number).arriving(uuid.uuid4().hex)
    post(scene.bucket.append_form(arriving, 0, 4, timedelta(minutes=1)), b"late")
    while await sweep_next(scene.world.context.database, scene.bucket):
        pass
    assert scene.bucket.arrived(arriving) == 0
    await north.close()


def test_a_form_takes_its_own_object_its_own_length_and_ends(scene: Scene, minio: Minio, bucket: S3Store) -> None:
    content = b"0123456789"

    def posted(data: bytes, lifetime: timedelta = timedelta(minutes=1), **changed: str) -> int:
        form = bucket.append_form("coming", 0, len(content), lifetime)
        fields = {**form.fields, **changed}
        return httpx.post(form.url, data=fields, files={"file": ("part", data)}, trust_env=False).status_code

    assert posted(content[1:]) == 400
    assert posted(content * 2) == 400
    assert posted(content, key="elsewhere") == 403
    assert posted(content, timedelta(seconds=-1)) == 403
    assert bucket.arrived("coming") == 0
    assert posted(content) == 204
    assert bucket.arrived("coming") == len(content)


def test_a_folder_is_no_store_for_sites(tmp_path: Path, database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="store_for_sites: needs an S3 service"):
        open_store_for_sites(StoreSettings(url=str(tmp_path)), "https://store.example.org")


@pytest.mark.parametrize(
    "url", ["store.example.org", "https://", "https://a/b", "https://me@a", "https://a:0", "ftp://a"]
)
def test_a_store_is_named_by_its_origin(url: str, database_url: str) -> None:
    with pytest.raises(ValueError, match=r"direct|url|http"):
        DirectUploadConfig(url=url)
