"""Entries of the audit log tell from where the caller asked; those of before do not, and keep their hashes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedafd.persistence.migrations.guards import refuse_unless_empty

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("events", sa.Column("address", sa.String(length=64), nullable=True))


def downgrade() -> None:
    refuse_unless_empty("events", "entries would not fit their hashes without it", "address IS NOT NULL")
    with op.batch_alter_table("events") as batch:
        batch.drop_column("address")
