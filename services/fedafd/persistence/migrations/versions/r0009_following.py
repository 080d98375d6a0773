"""A region's own federation, whose rounds follow those of an upper one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("federations", sa.Column("follows", sa.String(length=63), nullable=True))
    op.add_column("rounds", sa.Column("upstream_round_id", sa.String(length=32), nullable=True))
    op.add_column("rounds", sa.Column("upstream_receipt", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("rounds") as batch:
        batch.drop_column("upstream_receipt")
        batch.drop_column("upstream_round_id")
    with op.batch_alter_table("federations") as batch:
        batch.drop_column("follows")
