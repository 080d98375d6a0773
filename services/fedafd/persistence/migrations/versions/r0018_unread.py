"""A column that nobody reads has a default, so that replicas of this release need not write it; the next drops it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    if op.get_context().dialect.name != "sqlite":
        op.alter_column("uploads", "completed", server_default=sa.false())
        return
    # SQLite changes no default; copying the whole table, as batches do, cannot be printed as SQL.
    op.add_column("uploads", sa.Column("with_default", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE uploads SET with_default = completed")
    op.execute("ALTER TABLE uploads DROP COLUMN completed")
    op.execute("ALTER TABLE uploads RENAME COLUMN with_default TO completed")


def downgrade() -> None:
    with op.batch_alter_table("uploads") as batch:
        batch.alter_column("completed", server_default=None, existing_type=sa.Boolean(), existing_nullable=False)
