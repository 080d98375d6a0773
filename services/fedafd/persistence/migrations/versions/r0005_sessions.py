"""One live agent per client, and the code of why a participation was dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("clients", sa.Column("session", sa.String(length=16), nullable=True))
    op.add_column("clients", sa.Column("session_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("clients", sa.Column("other_agent_refused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("participations", sa.Column("reason_code", sa.String(length=32), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("participations") as batch:
        batch.drop_column("reason_code")
    with op.batch_alter_table("clients") as batch:
        batch.drop_column("other_agent_refused_at")
        batch.drop_column("session_until")
        batch.drop_column("session")
