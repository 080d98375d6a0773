"""Deleted federations whose objects an aggregator has still to remove."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "removals",
        sa.Column("federation_id", sa.String(63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("federation_id", name="pk_removals"),
    )


def downgrade() -> None:
    op.drop_table("removals")
