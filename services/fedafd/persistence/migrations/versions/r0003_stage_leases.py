"""When a distiller last renewed its claim on a stage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    column = sa.Column("alive_at", sa.DateTime(timezone=True), nullable=False, server_default="1970-01-01 00:00:00")
    op.add_column("stages", column)
    op.execute("UPDATE stages SET alive_at = last_progress_at")


def downgrade() -> None:
    with op.batch_alter_table("stages") as batch:
        batch.drop_column("alive_at")
