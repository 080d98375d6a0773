"""First contact with an encoder of which the site has the checkpoint already: its frozen weights are not downloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.patch import WORTH_A_PATCH_BYTES, Patch
from fedafd.agent.patient_calls import StopRequestedError
from fedafd.agent.sound_task import modality_of
from fedafd.artifacts.bundle_heads import BundleHead, bundle_head
from fedafd.artifacts.stage_io import BUNDLE
from fedafd.domain.config import AgentConfig, EncoderConfig, FederationConfig
from fedafd.domain.errors import (
    DataError,
    ForbiddenError,
    IdentityInUseError,
    RoundClosedError,
    StorageFullError,
    UnauthenticatedError,
)
from fedafd.domain.kinds import Modality
from fedafd.proto.v1 import types_pb2
from fedafd.telemetry.logging import get_logger

if TYPE_CHECKING:
    from fedafd.learning.own_weights import OwnPart

__all__ = ["patch_of_own_weights"]

_FIRST_BYTES = 128 << 10
_log = get_logger(__name__)


@asynccontextmanager
async def patch_of_own_weights(
    connection: AggregatorConnection,
    cache: ArtifactCache,
    artifact: types_pb2.Artifact,
    own: AgentConfig,
    federation: FederationConfig,
    *,
    sizes: Mapping[str, int],
) -> AsyncIterator[Patch | None]:
    """How a bundle is made of the site's own checkpoint. Within the context the file is there that this takes from.

    `sizes` are those of all artifacts of the round, which need the disk first. None for what is no bundle, where the
    bundle is here, where the site names no weights, and where all of the encoder is trained. It is also None where
    something goes wrong, and where less than half of the checkpoint is in the bundle; the log says so.
    """
    pretrained = _named_weights(artifact, own, federation)
    if pretrained is None or await asyncio.to_thread(cache.find, artifact.sha256) is not None:
        yield None
        return
    base = cache.place_for_base(artifact.sha256)
    try:
        yield await _patch(connection, artifact, base, pretrained, federation, room=cache.room_beside(sizes))
    finally:
        base.unlink(missing_ok=True)


def _named_weights(artifact: types_pb2.Artifact, own: AgentConfig, federation: FederationConfig) -> str | None:
    if not artifact.purpose.startswith(BUNDLE) or artifact.size_bytes < WORTH_A_PATCH_BYTES:
        return None
    modality = modality_of(artifact)
    return None if federation.encoder_of(modality).trainable == "all" else own.base_weights.of(modality)


async def _patch(
    connection: AggregatorConnection,
    bundle: types_pb2.Artifact,
    base: Path,
    pretrained: str,
    federation: FederationConfig,
    *,
    room: int,
) -> Patch | None:
    modality = modality_of(bundle)
    config = federation.encoder_of(modality).model_copy(update={"pretrained": pretrained})
    log_fields = {"weights": pretrained, "modality": modality.value}
    try:
        if room < bundle.size_bytes:
            raise StorageFullError("the disk has no room for the bundle twice", folder=str(base.parent))
        begin, head = await _head_of(connection, bundle)
        part = await asyncio.to_thread(
            _write, base, begin, head, bundle.size_bytes, config, modality, federation.embedding_dim
        )
        if not part.spans:
            raise DataError("none of its tensors has the name, shape and type of one of the global encoder's")
        patch = await connection.patch(bundle, base)
        if patch is None:
            raise DataError("it cannot be told which of its bytes are the global encoder's")
        taken_bytes = patch.taken_bytes(part.spans)
        # Who holds less of it could ask of the rest, in pieces of a byte, what it is.
        if 2 * taken_bytes < part.num_bytes:
            raise DataError(
                f"{taken_bytes:,} of its {part.num_bytes:,} bytes are the global encoder's, less than half; it is"
                " another checkpoint or revision, or was saved in another precision"
            )
    except (StopRequestedError, RoundClosedError, UnauthenticatedError, ForbiddenError, IdentityInUseError):
        raise
    except Exception as error:  # a checkpoint fails in each library's own way, and the download needs none
        _log.warning("agent.own_weights_not_used", reason=" ".join(str(error).split()), **log_fields)
        return None
    _log.info("agent.own_weights_used", bytes=taken_bytes, of_bytes=bundle.size_bytes, **log_fields)
    return patch


async def _head_of(connection: AggregatorConnection, bundle: types_pb2.Artifact) -> tuple[bytes, BundleHead]:
    wanted = min(_FIRST_BYTES, bundle.size_bytes)
    while True:
        begin = await connection.first_bytes(bundle, wanted)
        head = await asyncio.to_thread(bundle_head, begin, bundle.size_bytes)
        if isinstance(head, BundleHead):
            return begin, head
        # At least twice as many each time: files without content, one after the other, would ask for 512 bytes more.
        wanted = min(max(head, 2 * wanted), bundle.size_bytes)


def _write(
    target: Path,
    begin: bytes,
    head: BundleHead,
    size_bytes: int,
    config: EncoderConfig,
    modality: Modality,
    dim: int,
) -> OwnPart:
    from fedafd.learning.own_weights import write_own_part

    return write_own_part(target, begin, head, size_bytes, config, modality, dim)
