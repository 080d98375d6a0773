"""Drain mode, and the trace that a round belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("rounds", sa.Column("traceparent", sa.String(length=64), nullable=True))
    op.create_table(
        "drains",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_drains"),
    )


def downgrade() -> None:
    op.drop_table("drains")
    with op.batch_alter_table("rounds") as batch:
        batch.drop_column("traceparent")
