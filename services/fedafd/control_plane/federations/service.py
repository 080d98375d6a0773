"""Creating federations, changing their configuration, and deleting them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.names import check_storable
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.config.regions import check_regions
from fedafd.domain.errors import ConflictError
from fedafd.persistence.api_key_repository import forget_federation
from fedafd.persistence.client_repository import has_regions
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import add_federation, get_federation
from fedafd.persistence.models import FederationRow
from fedafd.persistence.removal_repository import Extent, delete_rows, extent_of
from fedafd.persistence.round_repository import open_round_numbers

__all__ = ["SHAPES_THE_MODEL", "change_config", "create", "remove"]

SHAPES_THE_MODEL = ("embedding_dim", "image_encoder", "text_encoder")


async def create(session: AsyncSession, config: dict[str, Any], actor: str) -> FederationRow:
    """Add a federation. Raises ConfigurationError, and ConflictError for a taken name."""
    check_storable(config)
    parsed = parse_federation_config(config)
    row = await add_federation(session, parsed.name, parsed.model_dump(mode="json"))
    record_event(session, "federation.created", federation_id=row.id, actor=actor)
    return row


async def change_config(
    session: AsyncSession, name: str, config: dict[str, Any], expected_version: int | None, actor: str
) -> FederationRow:
    """Replace a federation's configuration; rounds that are queued after it follow the new one.

    Refused while a round is open, because what its participants agreed on must not seem to be another; and what shapes
    the model cannot change once there is a model version. Raises ConfigurationError, ConflictError, NotFoundError.
    """
    check_storable(config)
    row = await get_federation(session, name, lock=True)
    if expected_version is not None and expected_version != row.config_version:
        raise ConflictError(
            f"federation {name}: its configuration is at version {row.config_version}, not {expected_version}; "
            "somebody changed it, look again"
        )
    numbers = await open_round_numbers(session, name)
    if numbers:
        raise ConflictError(
            f"federation {name}: round {numbers[0]} is open; change the configuration when it is over, or cancel it"
        )
    new = parse_federation_config(config)
    _check_change(row, new)
    if await has_regions(session, name):
        check_regions(new)
    old, row.config = row.config, new.model_dump(mode="json")
    changed = sorted(key for key, value in row.config.items() if old.get(key) != value)
    if changed:
        row.config_version += 1
        data = {"version": row.config_version, "changed": changed}
        record_event(session, "federation.config_changed", federation_id=name, actor=actor, **data)
    await session.flush()
    return row


async def remove(session: AsyncSession, name: str, actor: str, *, dry_run: bool = False) -> Extent:
    """Delete a federation with its clients, rounds and models; what goes, or with `dry_run` would go.

    Its events stay in the audit log, and its public set in the store, because others may have the same. Raises
    ConflictError while a round is open, NotFoundError.
    """
    row = await get_federation(session, name, lock=not dry_run)
    numbers = await open_round_numbers(session, name)
    if numbers:
        raise ConflictError(f"federation {name}: round {numbers[0]} is open; cancel it, or wait until it is over")
    extent = await extent_of(session, name)
    if not dry_run:
        session.expunge(row)
        await delete_rows(session, name)
        await forget_federation(session, name)
        record_event(session, "federation.deleted", federation_id=None, actor=actor, federation=name, **asdict(extent))
    return extent


def _check_change(row: FederationRow, new: FederationConfig) -> None:
    if new.name != row.id:
        raise ConflictError(f"federation {row.id}: its name cannot change to {new.name}; create another federation")
    if row.current_version is None:
        return
    old = FederationConfig.model_validate(row.config)
    fixed = [key for key in SHAPES_THE_MODEL if getattr(old, key) != getattr(new, key)]
    if fixed:
        raise ConflictError(
            f"federation {row.id}: {', '.join(fixed)} cannot change once there is a model version, because the next "
            "round goes on from it; create another federation"
        )
