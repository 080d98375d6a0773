"""Federations, their public set, their clients and their events."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from fedafd.control_plane.context import Context, ContextDep, Limit, operator, viewer
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.errors import ArtifactCorruptError, ConflictError, InvalidRequestError, NotFoundError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.manifest import MANIFEST_NAME, read_manifest
from fedafd.persistence.client_repository import get_client, invite_client, list_clients, revoke_client
from fedafd.persistence.event_repository import events_after, record_event
from fedafd.persistence.federation_repository import add_federation, get_federation, list_federations
from fedafd.persistence.models import ClientRow, FederationRow

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["federations"])
_SHARDS = "public-sets/incoming"
_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class InviteClient(BaseModel):
    """A site to invite."""

    name: str = Field(pattern=_NAME, examples=["hospital-north"])
    kind: ClientKind


@router.post("/federations", status_code=201)
async def create_federation(config: dict[str, Any], context: ContextDep, caller: operator) -> dict[str, Any]:
    """Create a federation from the content of `federation.yaml`."""
    parsed = parse_federation_config(config)
    async with context.database.transaction() as session:
        row = await add_federation(session, parsed.name, parsed.model_dump(mode="json"))
        record_event(session, "federation.created", federation_id=row.id, actor=caller.actor)
    return _federation(row)


@router.get("/federations")
async def get_federations(context: ContextDep, _: viewer, cursor: str = "", limit: Limit = 50) -> dict[str, Any]:
    """All federations, by name."""
    async with context.database.transaction() as session:
        rows = await list_federations(session, cursor, limit)
    return {"items": [_federation(row) for row in rows], "next_cursor": rows[-1].id if len(rows) == limit else None}


@router.get("/federations/{federation}")
async def get_one_federation(federation: str, context: ContextDep, _: viewer) -> dict[str, Any]:
    """One federation with its configuration."""
    async with context.database.transaction() as session:
        return _federation(await get_federation(session, federation))


@router.put("/federations/{federation}/public-set/shards/{sha256}", status_code=204)
async def put_shard(federation: str, sha256: str, request: Request, context: ContextDep, _: operator) -> Response:
    """Send one shard of the public set; its content must have the hash in the path."""
    async with context.database.transaction() as session:
        await get_federation(session, federation)
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise InvalidRequestError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile() as file:
        async for block in request.stream():
            digest.update(block)
            file.write(block)
        file.flush()
        if digest.hexdigest() != sha256:
            raise ArtifactCorruptError(
                f"the shard's content has SHA-256 {digest.hexdigest()}, not {sha256}; send it again"
            )
        await asyncio.to_thread(context.store.put_file, f"{_SHARDS}/{sha256}", Path(file.name))
    return Response(status_code=204)


@router.put("/federations/{federation}/public-set")
async def put_public_set(federation: str, request: Request, context: ContextDep, caller: operator) -> dict[str, Any]:
    """Make a manifest, whose shards were sent before, the federation's public set."""
    manifest = read_manifest(await request.body())
    if not manifest.num_samples("train") or not manifest.num_samples("test"):
        raise InvalidRequestError("public set: needs samples in the splits train and test")
    await asyncio.to_thread(_adopt, context, manifest.sha256, [(s.sha256, s.name) for s in manifest.shards])
    await asyncio.to_thread(context.store.put, f"public-sets/{manifest.sha256}/{MANIFEST_NAME}", manifest.to_bytes())
    summary = {split: manifest.num_samples(split) for split in ("train", "val", "test")}
    async with context.database.transaction() as session:
        row = await get_federation(session, federation)
        row.public_set_sha256, row.public_set_summary = manifest.sha256, summary
        record_event(session, "public_set.changed", federation_id=row.id, actor=caller.actor, sha256=manifest.sha256)
    return {"sha256": manifest.sha256, "num_samples": summary}


@router.get("/federations/{federation}/public-set")
async def get_public_set(federation: str, context: ContextDep, _: viewer) -> dict[str, Any]:
    """The public set's hash and sizes."""
    async with context.database.transaction() as session:
        row = await get_federation(session, federation)
    if row.public_set_sha256 is None:
        raise NotFoundError(f"federation {federation}: has no public set yet; push one with `fedafd public-set push`")
    return {"sha256": row.public_set_sha256, "num_samples": row.public_set_summary}


@router.post("/federations/{federation}/clients", status_code=201)
async def post_client(federation: str, body: InviteClient, context: ContextDep, caller: operator) -> dict[str, Any]:
    """Invite a client. The answer holds its one-time enrolment token, which is never shown again."""
    async with context.database.transaction() as session:
        await get_federation(session, federation)
        row, token = await invite_client(session, federation, body.name, body.kind, context.invitation_lifetime)
        record_event(session, "client.invited", federation_id=federation, actor=caller.actor, client=row.name)
    return _client(row) | {"enrolment_token": token}


@router.get("/federations/{federation}/clients")
async def get_clients(
    federation: str, context: ContextDep, _: viewer, cursor: str = "", limit: Limit = 50
) -> dict[str, Any]:
    """The federation's clients, by name."""
    async with context.database.transaction() as session:
        await get_federation(session, federation)
        rows = await list_clients(session, federation, cursor, limit)
    return {"items": [_client(row) for row in rows], "next_cursor": rows[-1].name if len(rows) == limit else None}


@router.delete("/federations/{federation}/clients/{client}")
async def delete_client(federation: str, client: str, context: ContextDep, caller: operator) -> dict[str, Any]:
    """Revoke a client: its credential and token are refused from now on."""
    async with context.database.transaction() as session:
        row = await get_client(session, federation, client)
        if row.revoked_at is not None:
            raise ConflictError(f"client {client}: was revoked before")
        await revoke_client(session, row)
        record_event(session, "client.revoked", federation_id=federation, actor=caller.actor, client=row.name)
    context.changed(federation)
    return _client(row)


@router.get("/federations/{federation}/events")
async def get_events(
    federation: str, context: ContextDep, _: viewer, cursor: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100
) -> dict[str, Any]:
    """The audit log, oldest first."""
    async with context.database.transaction() as session:
        await get_federation(session, federation)
        rows = await events_after(session, federation, cursor, limit)
    items = [
        {"id": row.id, "at": row.at.isoformat(), "kind": row.kind, "actor": row.actor, "data": row.data} for row in rows
    ]
    return {"items": items, "next_cursor": rows[-1].id if len(rows) == limit else None}


def _adopt(context: Context, sha256: str, shards: list[tuple[str, str]]) -> None:
    absent = [name for digest, name in shards if not _held(context, sha256, digest, name)]
    if absent:
        raise ConflictError(f"public set: shards {', '.join(absent)} have not arrived; send them before the manifest")


def _held(context: Context, sha256: str, digest: str, name: str) -> bool:
    target, source = f"public-sets/{sha256}/{name}", f"{_SHARDS}/{digest}"
    if context.store.stat(target) is not None:
        return True
    if context.store.stat(source) is None:
        return False
    with tempfile.NamedTemporaryFile() as file:
        for block in context.store.stream(source):
            file.write(block)
        file.flush()
        context.store.put_file(target, Path(file.name))
    context.store.delete(source)
    return True


def _federation(row: FederationRow) -> dict[str, Any]:
    return {
        "name": row.id,
        "config": FederationConfig.model_validate(row.config).model_dump(mode="json"),
        "public_set_sha256": row.public_set_sha256,
        "current_version": row.current_version,
        "created_at": row.created_at.isoformat(),
    }


def _client(row: ClientRow) -> dict[str, Any]:
    state = "revoked" if row.revoked_at else "enrolled" if row.enrolled_at else "invited"
    return {
        "name": row.name,
        "kind": row.kind,
        "state": state,
        "last_seen_at": row.last_seen_at.isoformat() if row.last_seen_at else None,
        "agent_version": row.agent_version,
    }
