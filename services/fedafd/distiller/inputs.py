"""A stage's inputs: from memory what this distiller has just made, from the store all else.

What is lost or damaged in the store is made again by whoever needs it, with the same bits.
Every output of a stage depends on its inputs and its seed alone, so that the aggregator's description of the stage that
made an object is enough to make it again: an SED state, an encoder bundle, the global representations, and a server
state, for which the distilling stage of an earlier round is done again. What a client sent is made by no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedafd.distiller.client import DistillationClient
from fedafd.distiller.kept_outputs import KeptOutputs
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience
from fedafd.distiller.stages import StageResult
from fedafd.domain.errors import ArtifactCorruptError, ArtifactNotFoundError, FedafdError
from fedafd.domain.hashing import sha256_of
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified
from fedafd.telemetry.logging import get_logger
from fedafd.telemetry.tracing import span

__all__ = ["Redo", "StageInputs"]

_UNUSABLE = (ArtifactCorruptError, ArtifactNotFoundError)
_log = get_logger(__name__)

Redo = Callable[[pb.ClaimStageResponse, Mapping[str, bytes]], StageResult]
"""Does a described stage's work on its inputs."""


class StageInputs:
    """Reads the inputs of one claimed stage."""

    def __init__(
        self,
        client: DistillationClient,
        store: ObjectStore,
        patience: Patience,
        metrics: DistillerMetrics,
        *,
        stage_id: str,
        redo: Redo,
        kept: KeptOutputs,
    ) -> None:
        self._client, self._store, self._patience, self._metrics = client, store, patience, metrics
        self._stage_id, self._redo, self._kept = stage_id, redo, kept

    def read(self, named: pb.NamedArtifact) -> bytes:
        """The input. Raises ArtifactCorruptError, ArtifactNotFoundError, with its name, if it is lost for good."""
        name, artifact = named.name, named.artifact
        try:
            return self._whole(artifact)
        except _UNUSABLE as error:
            content = self._rebuilt(name, artifact)
            if content is None:
                error.data["input"] = name
                raise
            return content

    def _whole(self, artifact: types_pb2.Artifact) -> bytes:
        try:
            return self._once(artifact)
        except _UNUSABLE:
            _log.warning("stage.input_unusable", key=artifact.key, next="reading it once more")
        return self._once(artifact)

    def _once(self, artifact: types_pb2.Artifact) -> bytes:
        if (content := self._kept.get(artifact.sha256)) is not None:
            return content
        content = self._patience.through(lambda: get_verified(self._store, artifact.key, artifact.sha256))
        self._metrics.bytes_read.inc(len(content))
        return content

    def _rebuilt(self, name: str, artifact: types_pb2.Artifact) -> bytes | None:
        """The content, which lies in the store again; None if no stage made it, or what made it is lost as well."""
        try:
            maker = self._client.maker(self._stage_id, artifact.key)
            _log.warning("stage.input_unusable", input=name, key=artifact.key, next="making it again")
            with span("make input again"):
                result = self._redo(maker, {item.name: self.read(item) for item in maker.inputs})
        except FedafdError as error:
            _log.error("stage.input_lost", input=name, key=artifact.key, reason=str(error))
            return None
        same = (content for content in result.outputs.values() if sha256_of(content) == artifact.sha256)
        content = next(same, None)
        if content is None:
            _log.error("stage.input_lost", input=name, key=artifact.key, reason="what was made again has other bits")
            return None
        self._patience.through(lambda: self._store.put(artifact.key, content))
        self._metrics.bytes_written.inc(len(content))
        _log.info("stage.input_rebuilt", input=name, key=artifact.key)
        return content
