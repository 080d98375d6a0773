"""First contact with an encoder of which the site has the checkpoint already: its frozen weights are not downloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.connection import AggregatorConnection
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
    UnauthenticatedError,
)
from fedafd.domain.kinds import Modality
from fedafd.proto.v1 import types_pb2
from fedafd.telemetry.logging import get_logger

__all__ = ["lend_own_base"]

_FIRST_BYTES = 128 << 10
_log = get_logger(__name__)


async def lend_own_base(
    connection: AggregatorConnection,
    cache: ArtifactCache,
    artifact: types_pb2.Artifact,
    own: AgentConfig,
    federation: FederationConfig,
) -> None:
    """Put a file into the cache that a bundle's download takes the site's own bytes from.

    Nothing is done for what is no bundle, where it or an older one is here, where the site names no weights, and where
    all of the encoder is trained. What goes wrong is told in the log, and all of the bundle is downloaded.
    """
    if not artifact.purpose.startswith(BUNDLE):
        return
    modality = modality_of(artifact)
    shared = federation.encoder_of(modality)
    pretrained = own.base_weights.of(modality)
    if pretrained is None or shared.trainable == "all":
        return
    if await asyncio.to_thread(lambda: cache.find(artifact.sha256) or cache.newest(artifact.purpose)):
        return
    config = shared.model_copy(update={"pretrained": pretrained})
    target = cache.place_for_base(modality.value)
    log_fields = {"weights": pretrained, "modality": modality.value}
    try:
        begin, head = await _head_of(connection, artifact)
        own_bytes = await asyncio.to_thread(
            _write, target, begin, head, artifact.size_bytes, config, modality, federation.embedding_dim
        )
        if not own_bytes:
            raise DataError("none of its tensors has the name and shape of one of the global encoder's")
    except (StopRequestedError, RoundClosedError, UnauthenticatedError, ForbiddenError, IdentityInUseError):
        raise
    except Exception as error:  # a checkpoint fails in each library's own way, and the download needs none
        target.unlink(missing_ok=True)
        _log.warning("agent.own_weights_not_used", reason=str(error), **log_fields)
    else:
        _log.info("agent.own_weights_used", bytes=own_bytes, **log_fields)
        cache.lend(artifact.purpose, target)


async def _head_of(connection: AggregatorConnection, bundle: types_pb2.Artifact) -> tuple[bytes, BundleHead]:
    wanted = min(_FIRST_BYTES, bundle.size_bytes)
    while True:
        begin = await connection.first_bytes(bundle, wanted)
        head = bundle_head(begin, bundle.size_bytes)
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
) -> int:
    from fedafd.learning.own_weights import write_own_part

    return write_own_part(target, begin, head, size_bytes, config, modality, dim)
