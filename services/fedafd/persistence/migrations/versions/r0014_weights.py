"""What clients weigh: the stage that finds it, and where it is written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedafd.persistence.migrations.guards import refuse_unless_empty

revision = "0014"
down_revision = "0013"

_KINDS = "kind IN ('prepare', 'fold'{more}, 'merge', 'distil', 'evaluate')"


def upgrade() -> None:
    op.add_column("participations", sa.Column("contributions", sa.JSON(), nullable=True))
    # Told how the table looks, because printed SQL cannot look; SQLite changes a constraint by copying the table.
    with op.batch_alter_table("stages", copy_from=_stages()) as batch:
        batch.drop_constraint(op.f("ck_stages_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_stages_kind"), _KINDS.format(more=", 'weigh'"))


def downgrade() -> None:
    refuse_unless_empty("stages", "a weighing would become a stage of no kind", "kind = 'weigh'")
    with op.batch_alter_table("stages") as batch:
        batch.drop_constraint(op.f("ck_stages_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_stages_kind"), _KINDS.format(more=""))
    with op.batch_alter_table("participations") as batch:
        batch.drop_column("contributions")


def _stages() -> sa.Table:
    """The table as of the revision before."""
    at = sa.DateTime(timezone=True)
    return sa.Table(
        "stages",
        sa.MetaData(),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("modality", sa.String(length=8), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=120), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("activity", sa.String(length=200), nullable=True),
        sa.Column("last_progress_at", at, nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", at, nullable=False),
        sa.Column("finished_at", at, nullable=True),
        sa.Column("alive_at", at, nullable=False, server_default="1970-01-01 00:00:00"),
        sa.CheckConstraint(_KINDS.format(more=""), name=op.f("ck_stages_kind")),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_stages_state")
        ),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_stages_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_stages"),
        sa.UniqueConstraint(
            "round_id", "kind", "modality", "level", "position", name="uq_stages_round_id_kind_modality_level_position"
        ),
        sa.Index("ix_stages_round_id", "round_id"),
    )
