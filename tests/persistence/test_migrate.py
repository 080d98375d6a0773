"""Migrations on SQLite and on a real PostgreSQL: up from every revision with rows, down without loss, many at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Engine, MetaData, create_engine, inspect, text
from sqlalchemy.sql import sqltypes

from fedafd.domain.errors import ConfigurationError, DatabaseUnavailableError, SchemaError
from fedafd.persistence.database import Database, driver_url
from fedafd.persistence.migrate import (
    BASE,
    check_schema,
    current_revision,
    head_revision,
    migrate,
    migration_sql,
    revisions,
    schema_problem,
)
from fedafd.persistence.models import Base

EARLIER = revisions()[:-1]
ALLOWED = {"kind": "image", "role": "viewer", "state": "queued"}
"""Values that the check constraints allow; some tables allow others."""
DROPPED = {("uploads", "completed"), ("rounds", "cohort")}
"""Columns that a later revision drops because nothing reads them: their values are not kept."""
ALLOWED_IN = {"participations": {"state": "invited"}, "stages": {"state": "pending", "kind": "fold"}}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(driver_url(database_url, asynchronous=False))
    yield engine
    engine.dispose()


def fill(engine: Engine) -> None:
    """One row in every table, whatever the revision has."""
    metadata = MetaData()
    metadata.reflect(engine)
    made: dict[str, Any] = {}
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name == "alembic_version":
                continue
            row = {column.name: _value(table.name, column, made) for column in table.columns}
            if table.name == "model_files":
                row["personalized_model_id"] = None
            connection.execute(table.insert(), row)
            made[table.name] = next(iter(row.values()))


def _value(table: str, column: Column[Any], made: dict[str, Any]) -> Any:
    for key in column.foreign_keys:
        return made[key.column.table.name]
    allowed = ALLOWED | ALLOWED_IN.get(table, {})
    if column.name in allowed:
        return allowed[column.name]
    if isinstance(column.type, sqltypes.DateTime):
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    if isinstance(column.type, sqltypes.Boolean):
        return True
    if isinstance(column.type, sqltypes.JSON):
        return {"name": "trial"}
    if isinstance(column.type, sqltypes.LargeBinary):
        return b"{}"
    if isinstance(column.type, sqltypes.Integer | sqltypes.Float):
        return 1
    return f"{table}-{column.name}"[: getattr(column.type, "length", None) or 32]


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        return {
            table.name: [
                {name: value for name, value in row.items() if (table.name, name) not in DROPPED}
                for row in connection.execute(table.select()).mappings()
            ]
            for table in metadata.sorted_tables
            if table.name not in ("alembic_version", "idempotency_keys")  # answers are forgotten, and may be
        }


def shape(engine: Engine) -> dict[str, Any]:
    """All that the database tells about its tables, in an order of our own."""
    look = inspect(engine)
    return {
        name: {
            "columns": sorted((c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(name)),
            "checks": sorted((str(c["name"]), c["sqltext"]) for c in look.get_check_constraints(name)),
            "uniques": sorted((str(c["name"]), c["column_names"]) for c in look.get_unique_constraints(name)),
            "indexes": sorted((str(c["name"]), c["column_names"]) for c in look.get_indexes(name)),
            "foreign": sorted((str(c["name"]), c["referred_table"]) for c in look.get_foreign_keys(name)),
            "primary": look.get_pk_constraint(name)["name"],
        }
        for name in look.get_table_names()
        if name != "alembic_version"
    }


def test_an_empty_database_comes_to_head_and_stays_there(database_url: str) -> None:
    assert current_revision(database_url) is None
    assert migrate(database_url) == (BASE, head_revision())
    assert migrate(database_url) == (head_revision(), head_revision())
    assert current_revision(database_url) == head_revision()


@pytest.mark.parametrize("revision", EARLIER)
def test_rows_of_every_earlier_revision_survive_the_upgrade(database_url: str, engine: Engine, revision: str) -> None:
    migrate(database_url, revision)
    fill(engine)
    before = contents(engine)
    assert all(before.values())
    assert migrate(database_url) == (revision, head_revision())
    after = contents(engine)
    for table, rows in before.items():
        assert [{name: row[name] for name in rows[0]} for row in after[table]] == rows


def test_a_new_column_of_an_old_row_has_its_default(database_url: str, engine: Engine) -> None:
    migrate(database_url, "0001")
    fill(engine)
    migrate(database_url)
    found = contents(engine)
    assert found["federations"][0]["config_version"] == 1
    assert found["stages"][0]["alive_at"] == found["stages"][0]["last_progress_at"]


def test_versions_that_were_promoted_before_there_was_retention_are_known(database_url: str, engine: Engine) -> None:
    migrate(database_url, "0006")
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE model_versions SET version = 7"))
        connection.execute(text("""UPDATE events SET kind = 'model.promoted', data = '{"old": 9, "new": 7}'"""))
    migrate(database_url)
    (version,), (event,) = contents(engine)["model_versions"], contents(engine)["events"]
    assert version["promoted_at"] == event["at"]
    assert version["state_removed_at"] is None


def test_going_down_and_up_again_keeps_the_rows(database_url: str, engine: Engine) -> None:
    migrate(database_url, "0001")
    fill(engine)
    before = contents(engine)
    migrate(database_url)
    assert migrate(database_url, "0001") == (head_revision(), "0001")
    assert contents(engine) == before
    migrate(database_url)


def test_a_downgrade_that_would_lose_data_is_refused_and_changes_nothing(database_url: str, engine: Engine) -> None:
    migrate(database_url)
    fill(engine)
    before = contents(engine)
    with pytest.raises(SchemaError, match=r"entries would not fit their hashes without it \(1 rows of events\)"):
        migrate(database_url, "0001")
    with engine.begin() as connection:
        connection.execute(text("UPDATE events SET address = NULL"))
        before["events"][0]["address"] = None
    with pytest.raises(SchemaError, match=r"keys for some federations would open all of them \(1 rows of api_keys\)"):
        migrate(database_url, "0001")
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET federations = NULL"))
        before["api_keys"][0]["federations"] = None
    with pytest.raises(SchemaError, match=r"keys that expire would live for ever \(1 rows of api_keys\)"):
        migrate(database_url, "0001")
    assert current_revision(database_url) == head_revision()
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET expires_at = NULL"))
        before["api_keys"][0]["expires_at"] = None
    with pytest.raises(SchemaError, match="would lose every federation"):
        migrate(database_url, BASE)
    assert current_revision(database_url) == head_revision()
    assert contents(engine) == before


def test_an_unused_database_can_be_taken_down_to_nothing(database_url: str, engine: Engine) -> None:
    migrate(database_url)
    assert migrate(database_url, BASE) == (head_revision(), BASE)
    assert shape(engine) == {}


def test_columns_that_nothing_reads_are_gone_and_come_back_when_going_down(database_url: str, engine: Engine) -> None:
    migrate(database_url, "0019")
    before = shape(engine)
    migrate(database_url)
    fill(engine)
    for table, column in DROPPED:
        assert column not in {each["name"] for each in inspect(engine).get_columns(table)}
    with engine.begin() as connection:
        connection.execute(text("UPDATE events SET address = NULL"))
    migrate(database_url, "0019")
    assert shape(engine) == before
    with engine.connect() as connection:
        assert connection.execute(text("SELECT completed FROM uploads")).scalar_one() in (0, False)


def test_models_and_migrations_do_not_differ(database_url: str, engine: Engine) -> None:
    migrate(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    migrated = shape(engine)
    migrate(database_url, BASE)
    Base.metadata.create_all(engine)
    assert migrated == shape(engine)


def test_tables_from_before_there_were_revisions_are_recognised(database_url: str, engine: Engine) -> None:
    migrate(database_url, "0001")
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    before = contents(engine)
    with pytest.raises(SchemaError, match="--revision 0001"):
        migration_sql(database_url)
    assert migrate(database_url) == ("0001", head_revision())
    rows = zip(contents(engine)["clients"], before["clients"], strict=True)
    assert all(row.items() >= old.items() for row, old in rows)


def test_foreign_tables_of_the_same_names_are_refused(database_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE clients (id INTEGER)"))
    with pytest.raises(SchemaError, match="clients, .* differ; restore a backup"):
        migrate(database_url)
    assert set(inspect(engine).get_table_names()) == {"clients"}


def test_tables_of_others_are_left_alone(database_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE of_somebody_else (id INTEGER)"))
    assert migrate(database_url) == (BASE, head_revision())
    assert "of_somebody_else" in inspect(engine).get_table_names()


def test_processes_that_migrate_at_once_do_no_harm(database_url: str) -> None:
    command = [sys.executable, "-m", "fedafd.cli.main", "migrate"]
    environment = os.environ | {"FEDAFD_DATABASE_URL": database_url}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert current_revision(database_url) == head_revision()


def test_the_printed_sql_does_what_the_command_does(database_url: str, engine: Engine) -> None:
    migrate(database_url, "0001")
    fill(engine)
    printed = migration_sql(database_url)
    assert current_revision(database_url) == "0001"
    statements = [part for part in printed.split(";") if part.strip() not in ("", "BEGIN", "COMMIT")]
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    assert current_revision(database_url) == head_revision()
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    assert migration_sql(database_url).strip() in ("", "BEGIN;\n\nCOMMIT;")


async def test_a_process_refuses_a_database_that_is_not_at_head(database_url: str, engine: Engine) -> None:
    database = Database(database_url)
    empty = (
        r"^(sqlite|postgresql)://.*: the database is empty, this program needs revision .*; run `fedafd migrate` first"
    )
    with pytest.raises(SchemaError, match=empty):
        await check_schema(database)
    migrate(database_url, "0001")
    with pytest.raises(SchemaError, match="is at revision 0001, this program needs"):
        await check_schema(database)
    migrate(database_url)
    await check_schema(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="9999, which this program does not know; install the newer FedAFD"):
        await check_schema(database)
    assert await schema_problem(database, newer_is_fine=True) is None
    with pytest.raises(SchemaError, match="9999"):
        migrate(database_url)
    await database.close()


def test_what_cannot_be_done_says_why(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="'7': there is no such; there are base, 0001, "):
        migrate(f"sqlite:///{tmp_path}/x.db", "7")
    with pytest.raises(DatabaseUnavailableError, match="unable to open database file"):
        migrate(f"sqlite:///{tmp_path}/no/x.db")
    with pytest.raises(DatabaseUnavailableError, match=r"user:\*\*\*@.*cannot be reached"):
        migrate("postgresql://user:secret@127.0.0.1:1/none")
    with pytest.raises(ConfigurationError, match="mysql is not supported"):
        migrate("mysql://host/name")
    with pytest.raises(ConfigurationError, match="not a URL"):
        migrate("somewhere")


def test_asking_for_readiness_does_not_run_the_files_of_revisions_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = revisions()
    monkeypatch.delattr(ScriptDirectory, "from_config")
    revisions().clear()
    assert revisions() == known
    assert head_revision() == known[-1]
