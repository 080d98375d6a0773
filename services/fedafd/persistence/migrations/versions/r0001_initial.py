"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedafd.persistence.migrations.guards import refuse_unless_empty

revision = "0001"
down_revision = None


def upgrade() -> None:
    for make in (
        _api_keys,
        _federations,
        _idempotency_keys,
        _leases,
        _clients,
        _events,
        _rounds,
        _artifacts,
        _model_versions,
        _participations,
        _personalized_models,
        _stages,
        _uploads,
        _model_files,
        _outbox,
    ):
        make()


def downgrade() -> None:
    refuse_unless_empty("federations", "going back to an empty database would lose every federation")
    for name in (
        "outbox",
        "model_files",
        "uploads",
        "stages",
        "personalized_models",
        "participations",
        "model_versions",
        "artifacts",
        "rounds",
        "events",
        "clients",
        "leases",
        "idempotency_keys",
        "federations",
        "api_keys",
    ):
        op.drop_table(name)


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('admin', 'operator', 'viewer')", name=op.f("ck_api_keys_role")),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
        sa.UniqueConstraint("name", name="uq_api_keys_name"),
    )


def _federations() -> None:
    op.create_table(
        "federations",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("public_set_sha256", sa.String(length=64), nullable=True),
        sa.Column("public_set_summary", sa.JSON(), nullable=True),
        sa.Column("current_version", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_federations"),
    )


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=120), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _clients() -> None:
    op.create_table(
        "clients",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("federation_id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=True),
        sa.Column("token_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("credential_hash", sa.String(length=64), nullable=True),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agent_version", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('image', 'text', 'pair')", name=op.f("ck_clients_kind")),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_clients_federation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_clients"),
        sa.UniqueConstraint("credential_hash", name="uq_clients_credential_hash"),
        sa.UniqueConstraint("federation_id", "name", name="uq_clients_federation_id_name"),
        sa.UniqueConstraint("token_hash", name="uq_clients_token_hash"),
    )
    op.create_index("ix_clients_federation_id", "clients", ["federation_id"])


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("federation_id", sa.String(length=63), nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_events_federation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_federation_id", "events", ["federation_id"])


def _rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("federation_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("public_set_sha256", sa.String(length=64), nullable=False),
        sa.Column("base_version", sa.Integer(), nullable=True),
        sa.Column("cohort", sa.JSON(), nullable=True),
        sa.Column("fencing_token", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state_changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'preparing', 'collecting', 'distilling', "
            "'evaluating', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_rounds_state"),
        ),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_rounds_federation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
        sa.UniqueConstraint("federation_id", "number", name="uq_rounds_federation_id_number"),
    )
    op.create_index("ix_rounds_federation_id", "rounds", ["federation_id"])
    op.create_index("ix_rounds_state", "rounds", ["state"])


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("federation_id", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=True),
        sa.Column("client_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_artifacts_client_id"),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_artifacts_federation_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_artifacts_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
        sa.UniqueConstraint("federation_id", "key", name="uq_artifacts_federation_id_key"),
    )
    op.create_index("ix_artifacts_round_id", "artifacts", ["round_id"])
    op.create_index("ix_artifacts_sha256", "artifacts", ["sha256"])


def _model_versions() -> None:
    op.create_table(
        "model_versions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("federation_id", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("parent_version", sa.Integer(), nullable=True),
        sa.Column("state_key", sa.String(length=512), nullable=False),
        sa.Column("state_sha256", sa.String(length=64), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_model_versions_federation_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_model_versions_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_model_versions"),
        sa.UniqueConstraint("federation_id", "version", name="uq_model_versions_federation_id_version"),
        sa.UniqueConstraint("round_id", name="uq_model_versions_round_id"),
    )


def _participations() -> None:
    op.create_table(
        "participations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("client_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("activity", sa.String(length=200), nullable=True),
        sa.Column("last_progress_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("receipt", sa.String(length=64), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("num_private_samples", sa.Integer(), nullable=True),
        sa.Column("bytes_up", sa.BigInteger(), nullable=False),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
        sa.Column("representations_sha256", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "state IN ('invited', 'training', 'delivered', 'dropped', 'rejected')", name=op.f("ck_participations_state")
        ),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_participations_client_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_participations_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_participations"),
        sa.UniqueConstraint("round_id", "client_id", name="uq_participations_round_id_client_id"),
    )
    op.create_index("ix_participations_client_id", "participations", ["client_id"])
    op.create_index("ix_participations_round_id", "participations", ["round_id"])


def _personalized_models() -> None:
    op.create_table(
        "personalized_models",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("client_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_personalized_models_client_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_personalized_models_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_personalized_models"),
        sa.UniqueConstraint("client_id", "version", name="uq_personalized_models_client_id_version"),
    )
    op.create_index("ix_personalized_models_client_id", "personalized_models", ["client_id"])


def _stages() -> None:
    op.create_table(
        "stages",
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
        sa.Column("last_progress_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('prepare', 'fold', 'merge', 'distil', 'evaluate')", name=op.f("ck_stages_kind")),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_stages_state")
        ),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_stages_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_stages"),
        sa.UniqueConstraint(
            "round_id", "kind", "modality", "level", "position", name="uq_stages_round_id_kind_modality_level_position"
        ),
    )
    op.create_index("ix_stages_round_id", "stages", ["round_id"])


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("client_id", sa.String(length=32), nullable=False),
        sa.Column("purpose", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("chunk_size_bytes", sa.Integer(), nullable=False),
        sa.Column("chunk_sha256", sa.JSON(), nullable=False),
        sa.Column("completed", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_uploads_client_id"),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name="fk_uploads_round_id"),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.UniqueConstraint(
            "round_id", "client_id", "sha256", "purpose", name="uq_uploads_round_id_client_id_sha256_purpose"
        ),
    )
    op.create_index("ix_uploads_round_id", "uploads", ["round_id"])


def _model_files() -> None:
    op.create_table(
        "model_files",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model_version_id", sa.String(length=32), nullable=True),
        sa.Column("personalized_model_id", sa.String(length=32), nullable=True),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.CheckConstraint(
            "(model_version_id IS NULL) <> (personalized_model_id IS NULL)", name=op.f("ck_model_files_one_owner")
        ),
        sa.ForeignKeyConstraint(["model_version_id"], ["model_versions.id"], name="fk_model_files_model_version_id"),
        sa.ForeignKeyConstraint(
            ["personalized_model_id"], ["personalized_models.id"], name="fk_model_files_personalized_model_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_files"),
        sa.UniqueConstraint("model_version_id", "path", name="uq_model_files_model_version_id_path"),
        sa.UniqueConstraint("personalized_model_id", "path", name="uq_model_files_personalized_model_id_path"),
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("stage_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["stage_id"], ["stages.id"], name="fk_outbox_stage_id"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_sent_at", "outbox", ["sent_at"])
    op.create_index("ix_outbox_stage_id", "outbox", ["stage_id"])
