"""Who logs out of the dashboard ends the session everywhere, not only in the browser."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.create_table(
        "ended_logins",
        sa.Column("nonce", sa.String(32), primary_key=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_ended_logins_expires_at", "ended_logins", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_ended_logins_expires_at", "ended_logins")
    op.drop_table("ended_logins")
