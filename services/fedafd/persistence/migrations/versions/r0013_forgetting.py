"""What a client's data were asked to be deleted, and the receipt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_COLUMNS = ("forget_requested_at", "forgotten_at", "forgotten")


def upgrade() -> None:
    op.add_column("clients", sa.Column("forget_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("clients", sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("clients", sa.Column("forgotten", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("clients") as batch:
        for name in _COLUMNS:
            batch.drop_column(name)
