"""docs/privacy.md says what leaves a site, and the wire has nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from fedafd.domain.leaving import CLIENT_METRICS, SAID_BY_AGENTS, LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
TEXT_FIELDS = {
    # secrets that the aggregator made, its own ids, and hashes
    "EnrollRequest.token",
    "ReportProgressRequest.round_id",
    "BeginUploadRequest.round_id",
    "BeginUploadRequest.sha256",
    "BeginUploadRequest.chunk_sha256",
    "UploadChunksRequest.upload_id",
    "CommitUploadRequest.round_id",
    "CommitUploadRequest.upload_ids",
    "DescribeArtifactRequest.sha256",
    "DownloadArtifactRequest.sha256",
    "LeaveRoundRequest.round_id",
    # names of a fixed list
    "CommitUploadRequest.metrics",
}


def fields(message: Descriptor) -> Iterator[tuple[str, FieldDescriptor]]:
    for field in message.fields:
        yield f"{message.name}.{field.name}", field
        inner = field.message_type
        if inner is not None and inner.file.package == "fedafd.v1" and not inner.GetOptions().map_entry:
            yield from fields(inner)


def sent_fields() -> dict[str, FieldDescriptor]:
    methods = pb.DESCRIPTOR.services_by_name["AggregatorService"].methods
    return dict(each for method in methods for each in fields(method.input_type))


def rows(heading: str) -> list[str]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_every_field_that_an_agent_sends_has_a_row_and_every_row_a_field() -> None:
    assert sorted(rows("Messages")) == sorted(sent_fields())


def test_no_field_takes_free_text() -> None:
    texts = {
        name
        for name, field in sent_fields().items()
        if field.type == FieldDescriptor.TYPE_STRING
        or (field.message_type is not None and field.message_type.GetOptions().map_entry)
    }
    assert texts == TEXT_FIELDS


def test_every_code_of_a_refusal_is_on_the_page_in_its_words() -> None:
    assert rows("Codes of a refusal") == [reason.value for reason in LeaveReason if reason in SAID_BY_AGENTS]
    for reason in SAID_BY_AGENTS:
        assert f"| `{reason.value}` | {reason.words} |" in PAGE


def test_every_piece_of_metadata_is_named() -> None:
    sent = set(re.findall(r'"((?:fedafd-[a-z-]+)|authorization|traceparent)"', _sources("rpc", "telemetry")))
    assert {"authorization", "traceparent", "fedafd-session", "fedafd-ended-sessions", "fedafd-proof"} <= sent
    for name in sent - {"fedafd-error-code", "fedafd-time"}:  # which the aggregator sends
        assert f"`{name}`" in PAGE


def test_metrics_are_of_models_and_not_of_classes_or_files() -> None:
    of_models = r"(federated|fused|local|global|alone)/[a-z0-9_]+|over_(local|global|alone)/(difference|standard_error)"
    assert all(re.fullmatch(of_models, name) for name in CLIENT_METRICS)


def _sources(*folders: str) -> str:
    paths = (path for folder in folders for path in (ROOT / "services" / "fedafd" / folder).glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
