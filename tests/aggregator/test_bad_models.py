"""A personalized model that a broken or hostile site sends is refused with its reason, or taken whole."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from safetensors.numpy import save
from tests.aggregator.test_bad_uploads import opened
from tests.aggregator.world import World, refused

from fedafd.artifacts.folders import pack_folder
from fedafd.domain.kinds import ClientKind
from fedafd.learning.model_sums import sums_file
from fedafd.proto.v1 import aggregator_pb2 as pb

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


# -- personalized models ---------------------------------------------------------------------------------------------


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for info, content in members:
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, **values: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def sparse_bomb() -> bytes:
    info = member(
        "config.json", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15}
    )
    return tar((info, b"0\n" + b"\0" * 510))


BAD_MODELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no tar": (lambda: b"x" * 5000, "not a readable tar"),
    "truncated": (lambda: pack_folder({"config.json": b"{}" + b" " * 5000})[:3000], "not a readable tar"),
    "climbing path": (
        lambda: tar((member("../../evil.json"), b"{}")),
        "a member's name is not a plain relative path",
    ),
    "absolute path": (lambda: tar((member("/etc/cron.d/evil.json"), b"{}")), "is not a plain relative path"),
    "link": (
        lambda: tar((member("a.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")),
        "a member is not a plain file",
    ),
    "device": (lambda: tar((member("a.json", type=tarfile.CHRTYPE), b"")), "a member is not a plain file"),
    "sparse bomb": (sparse_bomb, "is not a plain"),
    "the same path twice": (lambda: tar((member("a.json"), b"{}"), (member("a.json"), b"[]")), "is there twice"),
    "program": (lambda: pack_folder({"run.py": b"import os"}), "a file is not one of .safetensors, .json"),
    "pickle": (lambda: pack_folder({"pytorch_model.bin": b"\x80"}), "a file is not one of"),
    "broken json": (lambda: pack_folder({"config.json": b"{"}), "a json file is not readable"),
    "deep json": (lambda: pack_folder({"config.json": b"[" * 100_000}), "a json file is not readable"),
    "broken weights": (lambda: pack_folder({"model.safetensors": b"\x01\0"}), "a safetensors file is not readable"),
    "cut weights": (
        lambda: pack_folder({"model.safetensors": save({"w": np.zeros(9, np.float32)})[:-4]}),
        "a safetensors file is not readable",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
async def test_a_bad_personalized_model_is_rejected(world: World, name: str) -> None:
    make, reason = BAD_MODELS[name]
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    uploads = [await world.upload(site, round_id, world.reps())]
    uploads.append(await world.upload(site, round_id, make(), "personalized-model"))
    receipt = await world.agents.CommitUpload(
        pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads), metadata=site
    )
    assert not receipt.accepted
    assert reason in receipt.rejection_reason


async def test_the_sums_of_a_models_files_are_taken_with_it(world: World) -> None:
    files = {"config.json": b"{}"}
    bundle = pack_folder(files | {"SHA256SUMS": sums_file(files)})
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    uploads = [await world.upload(site, round_id, world.reps())]
    uploads.append(await world.upload(site, round_id, bundle, "personalized-model"))
    receipt = await world.agents.CommitUpload(
        pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads), metadata=site
    )
    assert receipt.accepted, receipt.rejection_reason


async def test_a_federation_that_takes_no_models_refuses_them_at_the_door(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE, accept_personalized_models=False)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.upload(site, round_id, pack_folder({"a.json": b"{}"}), "personalized-model")
    assert "takes no personalized models" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")
