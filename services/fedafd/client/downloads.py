"""Model folders from a control plane: of the version that was found, hashed as they come, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import httpx

from fedafd.client.answers import DownloadTicket, ModelFile, PulledModel
from fedafd.client.archives import extract_files, need_announced
from fedafd.client.control_plane import ControlPlaneClient, unreachable
from fedafd.client.operations import (
    CLIENT_MODEL_ARCHIVE,
    CLIENT_MODEL_TICKETS,
    MODEL_ARCHIVE,
    MODEL_TICKETS,
    SHOW_CLIENT_MODEL,
    SHOW_MODEL,
    Operation,
)
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import ControlPlaneError

__all__ = ["pull_model"]

_BLOCK_BYTES = 1 << 20
_FRAME_BYTES = 64 << 10
"""Of an archive for each file: header, long name, padding."""


def pull_model(
    control_plane: ControlPlaneClient,
    federation: str,
    version: str,
    target: Path,
    *,
    client: str | None = None,
    direct: bool = False,
) -> PulledModel:
    """Write a model version as the folder `target`; returns its description.

    With `client` it is that client's personalized model, else the global one. `version` is a number or `current`, which
    is looked up once: a version that is published meanwhile changes nothing. `direct` fetches from the object store
    with tickets.
    Raises ConfigurationError for a target that holds files, ControlPlaneError for what came otherwise than announced.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target}: is there and not empty; choose another folder")
    model: PulledModel
    if client is None:
        model = control_plane.ask(SHOW_MODEL, federation, version)
        archive, tickets = MODEL_ARCHIVE, MODEL_TICKETS
    else:
        model = control_plane.ask(SHOW_CLIENT_MODEL, federation, client, version)
        archive, tickets = CLIENT_MODEL_ARCHIVE, CLIENT_MODEL_TICKETS
    sizes = {file["path"]: file["size_bytes"] for file in model["files"]}
    parts = (federation, *(() if client is None else (client,)), model["version"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as folder:
        fetched = Path(folder) / "model"
        fetched.mkdir()
        if direct:
            digests = _fetch_direct(control_plane.ask(tickets, *parts)["items"], fetched, sizes)
        else:
            digests = _fetch_archive(control_plane, archive, parts, fetched, sizes)
        _check(digests, model["files"])
        if target.exists():
            target.rmdir()
        shutil.move(fetched, target)
    return model


def _fetch_archive(
    control_plane: ControlPlaneClient,
    archive: Operation[bytes],
    parts: Iterable[str | int],
    folder: Path,
    sizes: Mapping[str, int],
) -> dict[str, str]:
    most = sum(sizes.values()) + _FRAME_BYTES * (1 + len(sizes))
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        with control_plane.download(archive, *parts) as response:
            _write(response, file, most, "the archive")
        file.seek(0)
        try:
            # Plain, as it is sent: one that is packed could be any number of bytes.
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return extract_files(tar, folder, sizes)
        except tarfile.TarError as error:
            raise ControlPlaneError(f"what came is no archive: {error}; pull again") from None


def _write(response: httpx.Response, file: IO[bytes], most: int, what: str) -> str:
    """The SHA-256 of what came. Raises ControlPlaneError for more bytes than that."""
    digest, count = hashlib.sha256(), 0
    for block in response.iter_bytes(_BLOCK_BYTES):
        count += len(block)
        if count > most:
            raise ControlPlaneError(f"{what}: has more bytes than announced; pull again")
        digest.update(block)
        file.write(block)
    return digest.hexdigest()


def _fetch_direct(tickets: Iterable[DownloadTicket], folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    digests = {}
    for ticket in tickets:
        target = folder / ticket["path"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ControlPlaneError(f"{ticket['path']}: lies outside the folder")
        need_announced(ticket["path"], sizes)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with httpx.stream("GET", ticket["url"], timeout=600) as response, target.open("wb") as file:
                response.raise_for_status()
                digests[ticket["path"]] = _write(response, file, sizes[ticket["path"]], ticket["path"])
        except httpx.HTTPError as error:
            raise unreachable(ticket["url"].partition("?")[0], error) from None
    return digests


def _check(digests: Mapping[str, str], files: Iterable[ModelFile]) -> None:
    """`digests`: what came, by path, of the announced files alone (`need_announced`)."""
    announced = {file["path"]: file["sha256"] for file in files}
    for path in sorted(announced):
        if path not in digests:
            raise ControlPlaneError(f"{path}: was announced and did not come; pull again")
        if digests[path] != announced[path]:
            raise ControlPlaneError(f"{path}: came with another content than announced; pull again")
