"""Regions: participants that stand for clients of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedafd.persistence.migrations.guards import refuse_unless_empty

revision = "0008"
down_revision = "0007"

_KINDS = "kind IN ('image', 'text', 'pair'{more})"


def upgrade() -> None:
    # Told how the table looks, because printed SQL cannot look; SQLite changes a constraint by copying the table.
    with op.batch_alter_table("clients", copy_from=_clients()) as batch:
        batch.add_column(sa.Column("max_clients", sa.Integer(), nullable=True))
        batch.drop_constraint(op.f("ck_clients_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_clients_kind"), _KINDS.format(more=", 'region'"))
    op.add_column("participations", sa.Column("region_clients", sa.JSON(), nullable=True))


def downgrade() -> None:
    refuse_unless_empty("clients", "a region would become a client of no kind", "kind = 'region'")
    with op.batch_alter_table("participations") as batch:
        batch.drop_column("region_clients")
    with op.batch_alter_table("clients") as batch:
        batch.drop_constraint(op.f("ck_clients_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_clients_kind"), _KINDS.format(more=""))
        batch.drop_column("max_clients")


def _clients() -> sa.Table:
    """The table as of the revision before."""
    at = sa.DateTime(timezone=True)
    return sa.Table(
        "clients",
        sa.MetaData(),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("federation_id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=True),
        sa.Column("token_expires_at", at, nullable=True),
        sa.Column("credential_hash", sa.String(length=64), nullable=True),
        sa.Column("enrolled_at", at, nullable=True),
        sa.Column("revoked_at", at, nullable=True),
        sa.Column("last_seen_at", at, nullable=True),
        sa.Column("agent_version", sa.String(length=64), nullable=True),
        sa.Column("created_at", at, nullable=False),
        sa.Column("session", sa.String(length=16), nullable=True),
        sa.Column("session_until", at, nullable=True),
        sa.Column("other_agent_refused_at", at, nullable=True),
        sa.CheckConstraint(_KINDS.format(more=""), name=op.f("ck_clients_kind")),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_clients_federation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_clients"),
        sa.UniqueConstraint("credential_hash", name="uq_clients_credential_hash"),
        sa.UniqueConstraint("federation_id", "name", name="uq_clients_federation_id_name"),
        sa.UniqueConstraint("token_hash", name="uq_clients_token_hash"),
        sa.Index("ix_clients_federation_id", "federation_id"),
    )
