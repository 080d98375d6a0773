"""Parts in a round tell when their training and their upload began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    for name in ("trains_since", "sends_since"):
        op.add_column("participations", sa.Column(name, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ("trains_since", "sends_since"):
        op.drop_column("participations", name)
