"""Entries of the audit log carry the hash that covers them and the one before; what is there is chained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from fedafd.persistence.audit_chaining import chain_events

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("events", sa.Column("hash", sa.String(length=64), nullable=True))
    if not context.is_offline_mode():  # of printed SQL the first write chains what is there
        chain_events(op.get_bind(), addresses=False)


def downgrade() -> None:
    with op.batch_alter_table("events") as batch:
        batch.drop_column("hash")
