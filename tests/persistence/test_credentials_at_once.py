"""Two that change who may come in at the same moment, on both databases: the later one decides, and leaves nothing of
the earlier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import ConflictError, UnauthenticatedError
from fedafd.domain.kinds import ParticipantKind, Role
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.api_key_repository import create_key, get_key, key_by_secret, rotate_key
from fedafd.persistence.caller_repository import caller_by_credential
from fedafd.persistence.client_repository import bind_key, enrol_client, get_client, invite_again, invite_client
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import utc_now

HOUR = timedelta(hours=1)
Act = Callable[[AsyncSession], Awaitable[str]]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
    yield database
    await database.close()


async def at_once(database: Database, first: Act, second: Act) -> tuple[str, str]:
    """Both begin before either commits; `first` commits first."""

    async def other() -> str:
        async with database.transaction() as session:
            return await second(session)

    async with database.transaction() as session:
        done = await first(session)
        waiting = asyncio.create_task(other())
        await asyncio.sleep(0.5)
        assert not waiting.done()
    return done, await waiting


async def invited(database: Database) -> str:
    async with database.transaction() as session:
        return (await invite_client(session, "trial", "north", ParticipantKind.IMAGE, HOUR))[1]


def enrolling(token: str) -> Act:
    async def act(session: AsyncSession) -> str:
        return (await enrol_client(session, token, ParticipantKind.IMAGE, None))[1]

    return act


async def inviting(session: AsyncSession) -> str:
    return await invite_again(session, await get_client(session, "trial", "north"), HOUR)


async def test_a_token_that_is_replaced_while_it_is_used_enrols_nobody(database: Database) -> None:
    leaked, told = await invited(database), list[str]()

    async def replacing(session: AsyncSession) -> str:
        told.append(await inviting(session))
        return told[-1]

    with pytest.raises(UnauthenticatedError, match="not known"):
        await at_once(database, replacing, enrolling(leaked))
    async with database.transaction() as session:
        await enrolling(told[0])(session)


async def test_a_new_invitation_ends_a_credential_that_was_made_meanwhile(database: Database) -> None:
    leaked = await invited(database)
    credential, token = await at_once(database, enrolling(leaked), inviting)
    async with database.transaction() as session:
        with pytest.raises(UnauthenticatedError, match="not known"):
            await caller_by_credential(session, hash_secret(credential))
        await enrolling(token)(session)


async def test_an_invitation_by_name_does_not_end_a_client_that_enrols_meanwhile(database: Database) -> None:
    token = await invited(database)

    async def by_name(session: AsyncSession) -> str:
        return (await invite_client(session, "trial", "north", ParticipantKind.IMAGE, HOUR))[1]

    with pytest.raises(ConflictError, match="exists already"):
        await at_once(database, enrolling(token), by_name)


async def test_of_two_with_one_token_at_once_one_is_enrolled(database: Database) -> None:
    token = await invited(database)
    with pytest.raises(ConflictError, match="was used"):
        await at_once(database, enrolling(token), enrolling(token))


async def test_a_secret_that_is_to_end_at_once_gets_no_overlap_of_another_rotation(database: Database) -> None:
    async with database.transaction() as session:
        _, old = await create_key(session, "ops", Role.OPERATOR, created_by="test")

    def rotating(overlap: timedelta) -> Act:
        async def act(session: AsyncSession) -> str:
            return await rotate_key(session, await get_key(session, "ops"), None, overlap)

        return act

    first, second = await at_once(database, rotating(HOUR), rotating(timedelta()))
    async with database.transaction() as session:
        assert await key_by_secret(session, second) is not None
        assert await key_by_secret(session, first) is None and await key_by_secret(session, old) is None


async def test_a_credential_that_a_new_invitation_ended_is_bound_to_no_key(database: Database) -> None:
    token = await invited(database)
    async with database.transaction() as session:
        credential = await enrolling(token)(session)
        caller, _ = await caller_by_credential(session, hash_secret(credential))
    async with database.transaction() as session:
        assert await bind_key(session, caller, "0" * 64, utc_now() + HOUR)
        await inviting(session)
    async with database.transaction() as session:
        assert not await bind_key(session, caller, "0" * 64, utc_now() + HOUR)
        assert (await get_client(session, "trial", "north")).key_sha256 is None
