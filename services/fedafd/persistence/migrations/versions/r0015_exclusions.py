"""Clients that an operator leaves out from a round on, and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("clients", sa.Column("excluded_from_round", sa.Integer(), nullable=True))
    op.add_column("clients", sa.Column("exclusion_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("clients") as batch:
        batch.drop_column("exclusion_reason")
        batch.drop_column("excluded_from_round")
