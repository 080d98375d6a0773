"""Whatever an agent writes into a message, no text of its own is kept, shown, counted or logged at the server."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
import structlog
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text
from tests.aggregator.world import World, error_code

from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata
from fedafd.telemetry import tracing
from fedafd.telemetry.logging import configure

PLANTED = "mueller-4711"
SERVICE: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["AggregatorService"]
METHODS = {method.name: method for method in SERVICE.methods}
TABLES = ("clients", "rounds", "participations", "uploads", "events", "artifacts", "personalized_models")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure("aggregator", level="DEBUG", stream=stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return exporter


def planted(message: Message, **good: Any) -> Message:
    """A message with the text in every field that takes one, but for those given."""
    for field in message.DESCRIPTOR.fields:
        if field.name in good:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[PLANTED] = 1.0
        elif field.type == FieldDescriptor.TYPE_STRING:
            value = [PLANTED] if field.is_repeated else PLANTED
            getattr(message, field.name).extend(value) if field.is_repeated else setattr(message, field.name, value)
    for name, value in good.items():
        target = getattr(message, name)
        target.extend(value) if isinstance(value, list) else setattr(message, name, value)
    return message


def request(method: str, **good: Any) -> Message:
    return planted(GetMessageClass(METHODS[method].input_type)(), **good)


async def tell(world: World, method: str, message: Message, metadata: tuple[tuple[str, str], ...]) -> None:
    call = getattr(world.agents, method)
    sent = iter([message]) if METHODS[method].client_streaming else message
    try:
        if METHODS[method].server_streaming:
            async for _ in call(sent, metadata=metadata):
                pass
        else:
            await call(sent, metadata=metadata)
    except grpc.aio.AioRpcError:
        pass


async def everything_kept(world: World) -> str:
    async with world.context.database.snapshot() as session:
        rows = [(await session.execute(text(f"SELECT * FROM {table}"))).all() for table in TABLES]
    return str(rows)


async def test_text_in_any_field_or_metadata_goes_nowhere(
    world: World, log: io.StringIO, spans: InMemorySpanExporter
) -> None:
    caller = await world.enrol("north")
    await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    round_id = await world.start_round()
    await world.prepare()
    traced = (("traceparent", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"),)
    hostile = (
        (*caller, *traced, ("user-agent", PLANTED), ("x-note", PLANTED)),
        (*bearer_metadata(PLANTED), *session_metadata("0" * 16)),
        (*caller[:1], ("fedafd-session", PLANTED), ("traceparent", PLANTED)),
    )
    for metadata in hostile:
        for method in sorted(METHODS):
            await tell(world, method, request(method), metadata)
        for method in ("ReportProgress", "BeginUpload", "CommitUpload"):
            await tell(world, method, request(method, round_id=round_id), metadata)
    upload_id = await world.upload(caller, round_id, world.reps())
    await tell(world, "CommitUpload", request("CommitUpload", round_id=round_id, upload_ids=[upload_id]), caller)
    await tell(world, "LeaveRound", request("LeaveRound", round_id=round_id), caller)

    assert "rpc.refused" in log.getvalue()
    assert len(spans.get_finished_spans()) > len(METHODS) / 2
    shown = [log.getvalue(), await everything_kept(world), str(world.seen), world.context.metrics.metrics.exposition()]
    for each in (*shown, *(span.to_json() for span in spans.get_finished_spans())):
        assert PLANTED not in str(each)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"federated/acc1": float("nan")}},
        {"metrics": {"federated/acc1": float("inf")}},
        {"num_private_samples": -1},
        {"num_private_samples": 2**40},
    ],
)
async def test_numbers_that_are_none_are_refused(world: World, changes: dict[str, Any]) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    upload_id = await world.upload(caller, round_id, world.reps())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(
            pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id], **changes), metadata=caller
        )
    assert error_code(raised.value) == "invalid-request"
    assert (await world.deliver(caller, round_id, world.reps())).accepted


async def test_metrics_of_a_newer_agent_are_left_out_and_its_delivery_counts(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    upload_id = await world.upload(caller, round_id, world.reps())
    metrics = {PLANTED: 1.0, "newer/nan": float("nan"), "federated/acc1": 50.0}
    receipt = await world.agents.CommitUpload(
        pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id], metrics=metrics), metadata=caller
    )
    assert receipt.accepted
    kept = await everything_kept(world)
    assert "federated/acc1" in kept
    assert PLANTED not in kept
    assert "newer/nan" not in kept


@pytest.mark.parametrize("fraction", [float("nan"), float("inf"), -0.1, 1.1])
async def test_a_share_of_progress_is_a_number_from_0_to_1(world: World, fraction: float) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.ReportProgress(
            pb.ReportProgressRequest(round_id=round_id, fraction=fraction), metadata=caller
        )
    assert error_code(raised.value) == "invalid-request"
