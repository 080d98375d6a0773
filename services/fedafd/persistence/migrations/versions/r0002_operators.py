"""What the REST API for operators needs: keys that expire, answers to repeated requests, counted configurations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedafd.persistence.migrations.guards import refuse_unless_empty

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("created_by", sa.String(length=128), nullable=True))
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("federations", sa.Column("config_version", sa.Integer(), nullable=False, server_default="1"))
    # Remembered answers are encrypted from here on; the old ones cannot be read any more and live for a day only.
    op.execute("DELETE FROM idempotency_keys")
    op.add_column("idempotency_keys", sa.Column("location", sa.String(length=512), nullable=True))
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_index("ix_events_federation_id_id", "events", ["federation_id", "id"])
    op.drop_index("ix_events_federation_id", "events")


def downgrade() -> None:
    refuse_unless_empty("api_keys", "keys that expire would live for ever", "expires_at IS NOT NULL")
    op.create_index("ix_events_federation_id", "events", ["federation_id"])
    op.drop_index("ix_events_federation_id_id", "events")
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.execute("DELETE FROM idempotency_keys")
    for table, columns in (
        ("idempotency_keys", ("location",)),
        ("federations", ("config_version",)),
        ("api_keys", ("created_by", "expires_at", "last_used_at")),
    ):
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column)
