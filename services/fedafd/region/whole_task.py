"""What of an upper federation's task is looked at before a region takes it over as a round of its own.

Its sites and its aggregator get what the task names: what is missing or of another name would fail there, in each look
at the round.
"""

from __future__ import annotations

from fedafd.agent.sound_task import need_understood
from fedafd.artifacts.manifest import Manifest
from fedafd.artifacts.stage_io import SharedOutputs
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.kinds import Modality
from fedafd.proto.v1 import aggregator_pb2 as pb

__all__ = ["need_whole", "need_whole_set"]


def need_whole(task: pb.TrainTask) -> None:
    """Raise InvalidRequestError for a task that does not have all that a region's round begins with, and no more."""
    need_understood(task)
    purposes = [blob.purpose for blob in (task.global_representations, *task.encoder_bundles)]
    names = SharedOutputs(global_representations=None, encoder_bundles=dict.fromkeys(Modality)).for_sites(
        tuple(Modality)
    )
    if sorted(purposes) != sorted(names):
        raise InvalidRequestError(
            f"the task names {', '.join(repr(name[:80]) for name in purposes[:5])}; a region needs each of"
            f" {', '.join(names)} once"
        )


def need_whole_set(task: pb.TrainTask, manifest: Manifest) -> None:
    """Raise InvalidRequestError unless the manifest has the hash as it is written, and the task has all that N is of.

    The region's sites know the set by the hash of the manifest's canonical bytes.
    """
    if manifest.sha256 != task.public_set_sha256:
        raise InvalidRequestError("the public set's manifest does not have the announced hash")
    named = {artifact.sha256 for artifact in task.public_set}
    missing = [shard.name for shard in manifest.shards if shard.split == "train" and shard.sha256 not in named]
    if missing or not manifest.num_samples():
        raise InvalidRequestError(f"the task names none of the public set's {missing[0] if missing else 'samples'}")
