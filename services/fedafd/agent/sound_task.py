"""What of an answer is read before anything is done for it: a server can send what no enrolment or round has. The site
says so then."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from fedafd.artifacts.manifest import LONGEST_MANIFEST
from fedafd.artifacts.stage_io import BUNDLE
from fedafd.domain.config.base import NAME_PATTERN
from fedafd.domain.errors import ConfigurationError, InvalidRequestError
from fedafd.domain.kinds import Modality
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2

__all__ = ["decoded_configuration", "modality_of", "moment_of", "need_credential", "need_names", "need_understood"]

_CREDENTIAL = re.compile(r"[!-~]{1,1024}")
_LONGEST_CONFIGURATION = 1 << 20
"""Characters of its JSON."""


def need_names(**names: str) -> None:
    """Raises InvalidRequestError for what an enrolment names a federation or a client, and is no such name."""
    for what, name in names.items():
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidRequestError(
                f"the aggregator says that the {what} is {name[:80]!r}, which is no name of a {what}; nothing was kept."
                " Ask the federation's operator what answers at this address"
            )


def need_credential(text: str) -> None:
    """Raises InvalidRequestError for a credential that no header of a call can hold: each call would end the agent."""
    if not _CREDENTIAL.fullmatch(text):
        raise InvalidRequestError(
            f"the aggregator gave a credential of {len(text):,} characters that is none; nothing was kept. Ask the"
            " federation's operator what answers at this address"
        )


def need_understood(task: pb.TrainTask) -> None:
    """Raises InvalidRequestError for a task that no round can have, whoever sent it."""
    if task.round_number < 1:
        raise InvalidRequestError(f"the task is of round {task.round_number}; rounds are counted from 1")
    if not task.public_set:
        raise InvalidRequestError("the task names no public set")
    if task.public_set[0].sha256 != task.public_set_sha256:
        raise InvalidRequestError("the task names one public set, and has the manifest of another")
    if task.public_set[0].size_bytes > LONGEST_MANIFEST:
        raise InvalidRequestError(
            f"the public set's manifest has {task.public_set[0].size_bytes:,} bytes; at most {LONGEST_MANIFEST:,} are"
            " read"
        )
    if not task.encoder_bundles:
        raise InvalidRequestError("the task names no encoder bundle")
    hashes: dict[Modality, str] = {}
    for bundle in task.encoder_bundles:
        modality = modality_of(bundle)
        if hashes.setdefault(modality, bundle.sha256) != bundle.sha256:
            raise InvalidRequestError(f"the task names several encoder bundles of {modality.value}; a round has one")


def modality_of(bundle: types_pb2.Artifact) -> Modality:
    """What an encoder bundle encodes. Raises InvalidRequestError."""
    name = bundle.purpose.removeprefix(BUNDLE)
    if name not in set(Modality):
        raise InvalidRequestError(f"the task names an encoder bundle of purpose {bundle.purpose!r}; update the agent")
    return Modality(name)


def moment_of(timestamp: Timestamp) -> datetime | None:
    """A time that the server tells; None for one that no calendar has."""
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def decoded_configuration(text: str) -> object:
    """The values of a federation's configuration. Raises ConfigurationError for what is no JSON of that size."""
    if len(text) > _LONGEST_CONFIGURATION:
        raise ConfigurationError(
            f"the federation's configuration has {len(text)} characters; at most {_LONGEST_CONFIGURATION} are read"
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the federation's configuration is not JSON: {error}") from error
    except RecursionError:
        raise ConfigurationError("the federation's configuration is nested too deeply") from None
