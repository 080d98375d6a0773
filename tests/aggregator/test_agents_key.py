"""The agent's own part of its identity, against a real aggregator: the key stays here, its certificate is renewed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.aggregator.world import World

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.enrolment import draft_of, enrol
from fedafd.agent.ledger import Ledger
from fedafd.agent.renewal import Renewal
from fedafd.agent.session import AgentSession
from fedafd.agent.state import Credential, StateDirectory
from fedafd.aggregator.server import make_server
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import UnauthenticatedError
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.persistence.client_repository import invite_client

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def address(world: World) -> AsyncIterator[str]:
    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def invited(world: World) -> str:
    async with world.context.database.transaction() as session:
        _, token = await invite_client(session, "trial", "north", ParticipantKind.IMAGE, timedelta(hours=1))
    return token


async def enrolled(world: World, address: str, folder: Path) -> tuple[StateDirectory, Credential]:
    state, token = StateDirectory(folder), await invited(world)
    config = RegionConfig(aggregator=address, federation="trial", state_dir=folder)
    kept = draft_of(token, folder).key.pem()
    kind, ledger = ClientKind.IMAGE, Ledger(folder)
    credential = await enrol(config, token, kind, state=state, ledger=ledger, stop=asyncio.Event())
    assert credential.key == kept  # what was drawn before the token was shown
    return state, credential


def connection(address: str, credential: Credential, state: StateDirectory) -> AggregatorConnection:
    session = AgentSession(state.root)
    return AggregatorConnection(address, stop=asyncio.Event(), credential=credential, session=session)


async def test_the_key_is_readable_by_the_agents_user_alone_and_a_copy_without_it_is_refused(
    world: World, address: str, tmp_path: Path
) -> None:
    state, credential = await enrolled(world, address, tmp_path / "state")
    path = state.root / "credential.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" in path.read_text()
    assert "PRIVATE KEY" not in repr(credential)
    assert not (state.root / "enrolment.json").exists()
    line = connection(address, credential, state)
    await line.fetch_task(0, 0.0)
    await line.close()
    stolen = connection(address, replace(credential, key="", certificate=""), state)
    with pytest.raises(UnauthenticatedError, match="bound to a key"):
        await stolen.fetch_task(0, 0.0)
    await stolen.close()


async def test_a_certificate_past_half_of_its_time_is_renewed_and_kept(
    world: World, address: str, tmp_path: Path
) -> None:
    object.__setattr__(world.context, "certificate_lifetime", timedelta(minutes=30))  # with an hour of slack before
    state, first = await enrolled(world, address, tmp_path / "state")
    object.__setattr__(world.context, "certificate_lifetime", timedelta(days=30))
    line = connection(address, first, state)
    renewal = Renewal(state, first)
    await renewal.if_due(line)
    second = state.load_credential()
    assert second is not None
    assert (second.key, second.secret) == (first.key, first.secret)
    assert second.certificate != first.certificate
    await line.fetch_task(0, 0.0)
    await renewal.if_due(line)
    assert state.load_credential() == second  # not due any more
    await line.close()


async def test_an_agent_from_before_there_were_keys_gets_one_without_a_step(
    world: World, address: str, tmp_path: Path
) -> None:
    state, token = StateDirectory(tmp_path / "state"), await invited(world)
    line = AggregatorConnection(address, stop=asyncio.Event())
    old = await line.enrol(token, ParticipantKind.IMAGE, b"n" * 32)
    await line.close()
    values = {name: value for name, value in vars(old).items() if name not in ("key", "certificate")}
    (state.root / "credential.json").write_text(json.dumps(values))
    loaded = state.load_credential()
    assert loaded == old
    line = connection(address, loaded, state)
    await Renewal(state, loaded).if_due(line)
    await line.fetch_task(0, 0.0)
    await line.close()
    kept = state.load_credential()
    assert kept is not None
    assert kept.certificate
    bare = connection(address, old, state)
    with pytest.raises(UnauthenticatedError):
        await bare.fetch_task(0, 0.0)
    await bare.close()
