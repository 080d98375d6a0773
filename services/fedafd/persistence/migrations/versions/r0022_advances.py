"""Parts in a round tell how far their work has got: a report that tells no more than before is no progress."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

_COLUMNS = (
    ("advanced_at", sa.DateTime(timezone=True), None),
    ("work_done", sa.BigInteger(), "0"),
    ("work_of", sa.String(16), None),
    ("work_begun", sa.Integer(), "0"),
    ("farthest", sa.Float(), "0"),
)


def upgrade() -> None:
    for name, kind, default in _COLUMNS:
        op.add_column("participations", sa.Column(name, kind, nullable=default is None, server_default=default))


def downgrade() -> None:
    for name, _, _ in _COLUMNS:
        op.drop_column("participations", name)
