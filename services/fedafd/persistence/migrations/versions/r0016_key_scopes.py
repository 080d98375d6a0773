"""API keys for some federations alone, and secrets that are good for a while beside the one that replaced them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedafd.persistence.migrations.guards import refuse_unless_empty

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    op.add_column("api_keys", sa.Column("federations", sa.JSON(), nullable=True))
    op.add_column("api_keys", sa.Column("previous_hash", sa.String(length=64), nullable=True))
    op.add_column("api_keys", sa.Column("previous_until", at, nullable=True))
    op.add_column("api_keys", sa.Column("previous_used_at", at, nullable=True))
    op.create_index("ix_api_keys_previous_hash", "api_keys", ["previous_hash"])


def downgrade() -> None:
    refuse_unless_empty("api_keys", "keys for some federations would open all of them", "federations IS NOT NULL")
    op.drop_index("ix_api_keys_previous_hash", "api_keys")
    with op.batch_alter_table("api_keys") as batch:
        for name in ("previous_used_at", "previous_until", "previous_hash", "federations"):
            batch.drop_column(name)
