"""docs/privacy.md says what leaves a site, and the wire has nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from typer.testing import CliRunner

from fedafd.agent.explain import explained, explained_as_data, leaves
from fedafd.agent.what_leaves import BLOBS, BLOBS_OF_REGIONS, MESSAGES, USES
from fedafd.cli.main import app
from fedafd.domain.config import AgentConfig, SharingConfig, parse_agent_config
from fedafd.domain.leaving import CLIENT_METRICS, SAID_BY_AGENTS, LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.authority import AGGREGATOR_NAME
from fedafd.rpc.own_tls import INTERNAL_NAME

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


def agent(**values: object) -> AgentConfig:
    return parse_agent_config({"aggregator": "a:1", "kind": "image", "data": {"adapter": "shapes"}} | values)


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


def test_every_message_and_every_blob_says_why_it_leaves_who_reads_it_and_how_long_it_is_kept() -> None:
    methods = pb.DESCRIPTOR.services_by_name["AggregatorService"].methods
    leaving = [*(method.input_type.name for method in methods), *(blob.name for blob in BLOBS)]
    leaving += [blob.name for blob in BLOBS_OF_REGIONS]
    assert sorted(use.name for use in USES) == sorted(leaving)
    for use in USES:
        assert f"| `{use.name}` | {use.why} | {use.readers} | {use.kept} |" in PAGE
    assert rows("Why, who reads it, and for how long") == [use.name for use in USES]


def test_explain_says_all_of_the_page_by_the_sites_own_agent_yaml() -> None:
    for share in ({}, {"metrics": False}, {"weights": True, "personalized_model": True}):
        config = agent(share=share)
        told = "\n".join(explained(config, fields=True))
        out, _, held = told.partition("Does not leave")
        for row in (*BLOBS, *MESSAGES):
            name = row.name if row.name in told else row.name.rpartition(".")[2].replace("_", " ")
            assert f"{name}: {row.holds.replace('`', '')}" in (out if leaves(row, config) else held), row.name
    assert "share.weights: false" in "\n".join(explained(agent()))
    assert "share.weights: false" not in "\n".join(explained(agent(share={"weights": True})))


def test_explain_says_which_weights_the_server_sees_and_which_hub_is_asked() -> None:
    none = "\n".join(explained(agent()))
    assert "the server sees" not in none and "No model hub is asked" in none
    named = {"image": "/models/lite0", "text": "org/minilm@abc"}
    assert "the server sees" in (told := "\n".join(explained(agent(base_weights=named)))) and "minilm" not in told
    both = "\n".join(explained(agent(kind="pair", base_weights=dict.fromkeys(("image", "text"), "org/clip"))))
    assert "you have org/clip (base_weights)" in both
    config = agent(kind="pair", base_weights=named)
    told = "\n".join(explained(config))
    assert "you have /models/lite0 and org/minilm@abc (base_weights)" in told
    assert "org/minilm@abc, by base_weights" in told and "/models/lite0, by" not in told
    assert explained_as_data(config)["weights_that_show"] == ["/models/lite0", "org/minilm@abc"]


def test_explain_says_what_the_policy_refuses(tmp_path: Path) -> None:
    assert "refuses:\n  pretrained weights that the federation names" in "\n".join(explained(agent()))
    (tmp_path / "agent.yaml").write_text(
        "aggregator: a:1\nkind: image\ndata: {adapter: shapes}\npolicy: {max_epochs: 3, hours: [22:00-06:00]}\n"
    )
    said = CliRunner().invoke(app, ["agent", "explain", "--config", str(tmp_path / "agent.yaml")])
    assert said.exit_code == 0
    assert "more than 3 local epochs in a round" in said.output and "outside of 22:00-06:00" in said.output


def test_what_needs_a_key_of_share_names_one_and_the_page_says_so() -> None:
    for row in (*BLOBS, *MESSAGES):
        assert not row.needs or (row.needs in SharingConfig.model_fields and f"share.{row.needs}" in row.when)


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
    # What the aggregator sends, and the names in certificates of the server side.
    for name in sent - {"fedafd-error-code", "fedafd-time", AGGREGATOR_NAME, INTERNAL_NAME}:
        assert f"`{name}`" in PAGE


def test_metrics_are_of_models_and_not_of_classes_or_files() -> None:
    of_models = r"(federated|fused|local|global|alone)/[a-z0-9_]+|over_(local|global|alone)/(difference|standard_error)"
    assert all(re.fullmatch(of_models, name) for name in CLIENT_METRICS)


def _sources(*folders: str) -> str:
    paths = (path for folder in folders for path in (ROOT / "services" / "fedafd" / folder).glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
