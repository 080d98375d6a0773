"""All that an agent sends, field by field, as the protos' options (protos/fedafd/v1/privacy.proto) say it.

docs/privacy.md and `fedafd agent explain` are made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from fedafd.proto.v1 import aggregator_pb2, privacy_pb2

__all__ = ["BLOBS", "BLOBS_OF_REGIONS", "MESSAGES", "USES", "Leaving", "Use", "unexplained"]

_WITH_THE_FIELD_ABOVE = "with it"


class Leaving(NamedTuple):
    """A field or a blob that leaves."""

    name: str
    holds: str
    when: str
    needs: str
    """The key of `share` in agent.yaml without which it does not leave; empty for none."""


class Use(NamedTuple):
    """Why a message or a blob leaves, who reads it, and how long the federation keeps it."""

    name: str
    why: str
    readers: str
    kept: str


def unexplained() -> list[str]:
    """Names of fields, messages and blobs of which the protos do not say enough."""
    silent = {row.name for row in (*MESSAGES, *BLOBS, *BLOBS_OF_REGIONS) if not (row.name and row.holds and row.when)}
    silent |= {use.name for use in USES if not all(use)}
    return sorted(silent)


def _requests() -> list[Descriptor]:
    service = aggregator_pb2.DESCRIPTOR.services_by_name["AggregatorService"]
    return [method.input_type for method in service.methods]


def _fields(message: Descriptor) -> Iterator[tuple[str, FieldDescriptor]]:
    """Each field of a request, and below it those of a message of ours that it holds."""
    for field in message.fields:
        yield f"{message.name}.{field.name}", field
        inner = field.message_type
        if inner is not None and inner.file.package == "fedafd.v1" and not inner.GetOptions().map_entry:
            yield from _fields(inner)


def _said(options: Message, extension: FieldDescriptor) -> Any:
    """One of our options; empty where the protos do not set it."""
    return cast("Any", options).Extensions[extension]


def _leaving(name: str, leaves: privacy_pb2.Leaves, *, otherwise: str = "") -> Leaving:
    return Leaving(name, leaves.holds, leaves.when or otherwise, leaves.needs)


def _use(name: str, use: privacy_pb2.Use) -> Use:
    return Use(name, use.why, use.readers, use.kept)


def _blobs() -> dict[str, privacy_pb2.Blob]:
    """By what each is called, or by its purpose where the protos do not say that."""
    values = aggregator_pb2.UploadPurpose.DESCRIPTOR.values
    blobs = [(value.name, _said(value.GetOptions(), privacy_pb2.blob)) for value in values if value.number]
    return {blob.name or purpose: blob for purpose, blob in blobs}


MESSAGES = tuple(
    {
        name: _leaving(
            name, _said(field.GetOptions(), privacy_pb2.leaves), otherwise=_WITH_THE_FIELD_ABOVE if index else ""
        )
        for request in _requests()
        for index, (name, field) in enumerate(_fields(request))
    }.values()
)
BLOBS = tuple(_leaving(name, blob.leaves) for name, blob in _blobs().items() if not blob.of_region)
BLOBS_OF_REGIONS = tuple(_leaving(name, blob.leaves) for name, blob in _blobs().items() if blob.of_region)
USES = (
    *(_use(request.name, _said(request.GetOptions(), privacy_pb2.use)) for request in _requests()),
    *(_use(name, blob.use) for name, blob in _blobs().items()),
)
