"""What retention let go of each model version, and which versions somebody promoted."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0007"
down_revision = "0006"

_OF_VERSIONS = ("promoted_at", "state_removed_at", "files_removed_at")


def upgrade() -> None:
    for name in _OF_VERSIONS:
        op.add_column("model_versions", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("personalized_models", sa.Column("files_removed_at", sa.DateTime(timezone=True), nullable=True))
    if not context.is_offline_mode():
        _note_promotions()


def downgrade() -> None:
    with op.batch_alter_table("personalized_models") as batch:
        batch.drop_column("files_removed_at")
    with op.batch_alter_table("model_versions") as batch:
        for name in reversed(_OF_VERSIONS):
            batch.drop_column(name)


def _note_promotions() -> None:
    """Versions that were promoted before are kept as those that are promoted from now on: the audit log tells."""
    at = sa.DateTime(timezone=True)
    events = sa.table("events", *map(sa.column, ("kind", "federation_id", "data")), sa.column("at", at))
    versions = sa.table("model_versions", *map(sa.column, ("federation_id", "version")), sa.column("promoted_at", at))
    promoted = sa.select(events.c.federation_id, events.c.data, events.c.at).where(events.c.kind == "model.promoted")
    promotions: dict[tuple[str, Any], datetime] = {}
    for federation, data, when in op.get_bind().execute(promoted):
        new = (json.loads(data) if isinstance(data, str) else data or {}).get("new")
        promotions[federation, new] = when
    for (federation, new), when in promotions.items():
        mine = (versions.c.federation_id == federation) & (versions.c.version == new)
        op.execute(sa.update(versions).where(mine).values(promoted_at=when))
