"""Two columns that no process reads or writes since revision 0018 are dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.drop_column("uploads", "completed")
    op.drop_column("rounds", "cohort")


def downgrade() -> None:
    op.add_column("rounds", sa.Column("cohort", sa.JSON(), nullable=True))
    op.add_column("uploads", sa.Column("completed", sa.Boolean(), nullable=False, server_default=sa.false()))
