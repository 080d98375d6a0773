"""What a downgrade asks before it drops something."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

__all__ = ["refuse_unless_empty"]


def refuse_unless_empty(table: str, why: str, where: str = "1 = 1") -> None:
    """Raise CommandError if the table has a row for which `where` (SQL of ours) holds. Printed SQL is not guarded."""
    if context.is_offline_mode():
        return
    query = sa.select(sa.func.count()).select_from(sa.table(table)).where(sa.text(where))
    count = op.get_bind().scalar(query)
    if count:
        raise CommandError(f"the downgrade would lose data and was not begun: {why} ({count} rows of {table})")
