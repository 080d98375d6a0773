"""Calls at an aggregator that lost its database end in time, and who made them dials another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1._async import HealthServicer
from sqlalchemy import text
from tests.aggregator.test_hung_dependencies import socket_of, through, until
from tests.end_to_end.proxy import proxy
from tests.hole import hole

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.state import Credential
from fedafd.aggregator.context import Context
from fedafd.aggregator.cut_off import Waiting
from fedafd.aggregator.health import watch_health
from fedafd.distiller.client import DistillationClient
from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.database import _LINE, Database
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceServicer, add_AggregatorServiceServicer_to_server
from fedafd.proto.v1.distillation_pb2_grpc import (
    DistillationServiceServicer,
    add_DistillationServiceServicer_to_server,
)
from fedafd.rpc.status import status_of
from fedafd.storage.folder import FolderStore


async def test_who_waits_for_a_database_that_swallows_packets_is_told_until_it_answers_again(
    postgres_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.aggregator.health._ANSWER_SECONDS", 1)
    monkeypatch.setitem(_LINE, "tcp_user_timeout", 3_000)
    with hole(socket_of(postgres_url)) as way:
        database = Database(through(postgres_url, way.port))
        context = Context(database, FolderStore(tmp_path), "internal")

        async def call() -> None:
            with context.waiting.one():
                async with database.transaction() as session:
                    await session.execute(text("SELECT 1"))

        await call()
        way.swallow()
        watching = asyncio.ensure_future(watch_health(context, HealthServicer(), seconds=0.1))
        try:
            began = monotonic()
            with pytest.raises(DatabaseUnavailableError, match="another aggregator"):
                await call()
            assert monotonic() - began < 30
            with pytest.raises(DatabaseUnavailableError):  # at once
                await call()
            way.let_through()
            healthy = context.metrics.metrics.registry.get_sample_value
            await until(lambda: healthy("fedafd_aggregator_healthy"), "its answer")
            await call()
        finally:
            way.let_through()
            watching.cancel()
            await asyncio.wait((watching,))
            await database.close()


async def test_a_call_that_is_cancelled_by_others_stays_cancelled() -> None:
    waiting, heard = Waiting(), []

    async def call() -> None:
        try:
            with waiting.one():
                await asyncio.Event().wait()
        except BaseException as error:
            heard.append(type(error))

    first = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    waiting.cut_off(True)
    await first
    assert heard == [DatabaseUnavailableError]
    waiting.cut_off(False)
    second = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    waiting.cut_off(False)
    second.cancel()
    await asyncio.wait((second,))
    assert heard == [DatabaseUnavailableError, asyncio.CancelledError]


class Half(AggregatorServiceServicer, DistillationServiceServicer):
    """One of two aggregators; without its database it says so."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole

    def ReportProgress(self, _: Any, context: grpc.ServicerContext) -> pb.ReportProgressResponse:
        self._answer(context)
        return pb.ReportProgressResponse(keep_going=True)

    def ClaimStage(self, _: Any, context: grpc.ServicerContext) -> distillation_pb2.ClaimStageResponse:
        self._answer(context)
        return distillation_pb2.ClaimStageResponse(token=1)

    def _answer(self, context: grpc.ServicerContext) -> None:
        if not self.whole:
            code, words, trailing = status_of(DatabaseUnavailableError("the database does not answer"))
            context.set_trailing_metadata(trailing)
            context.abort(code, words)


@contextmanager
def serving(half: Half) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_AggregatorServiceServicer_to_server(half, server)
    add_DistillationServiceServicer_to_server(half, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@asynccontextmanager
async def agent_at(address: str) -> AsyncIterator[AggregatorConnection]:
    credential = Credential(
        federation_id="federation",
        client_id="client",
        client_name="pairs",
        kind=ParticipantKind.PAIR,
        secret="credential",
    )
    connection = AggregatorConnection(address, stop=asyncio.Event(), credential=credential)
    yield connection
    await connection.close()


async def test_who_dialled_an_aggregator_that_lost_its_database_comes_to_the_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, whole = Half(whole=True), Half(whole=True)
    with serving(broken) as first, serving(whole) as second, proxy((first, second)) as address:
        async with agent_at(address) as agent:  # the proxy leads each second connection to the second aggregator
            await agent.keep_session("round")
            distiller = await asyncio.to_thread(DistillationClient, address, "token")
            other = await asyncio.to_thread(DistillationClient, address, "token")
            for each in (distiller, other):
                await asyncio.to_thread(each.claim, "stage")
            broken.whole = False
            monkeypatch.setattr("fedafd.agent.connection.DIAL_ANEW_SECONDS", 0)
            monkeypatch.setattr("fedafd.distiller.client.DIAL_ANEW_SECONDS", 0)
            async with asyncio.timeout(30):
                await agent.keep_session("round")
                for each in (distiller, other):
                    await asyncio.to_thread(each.claim, "stage")
