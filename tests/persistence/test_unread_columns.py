"""Columns that the next release drops: replicas of this release name them nowhere, those of the one before may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.orm import Session
from tests.databases import migrated

from fedafd.persistence.database import driver_url
from fedafd.persistence.models import RoundRow, UploadRow

OLDER_INSERT = """
    INSERT INTO uploads (id, round_id, client_id, purpose, sha256, size_bytes, chunk_size_bytes, chunk_sha256,
                         completed, created_at)
    VALUES ('u2', 'r', 'c', 'weights', 'ff', 1, 1, '[]', FALSE, '2026-01-02 03:04:05')
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'fedafd.db'}"
    migrated(url)
    engine = create_engine(driver_url(url, asynchronous=False))
    yield engine
    engine.dispose()


def test_nothing_that_is_written_or_read_names_them_so_that_they_can_be_dropped(engine: Engine) -> None:
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: said.append(statement))
    with Session(engine) as session:
        session.add(RoundRow(id="r", federation_id="f", number=1, config={}, public_set_sha256="aa"))
        session.add(
            UploadRow(
                id="u1",
                round_id="r",
                client_id="c",
                purpose="weights",
                sha256="ee",
                size_bytes=1,
                chunk_size_bytes=1,
                chunk_sha256=[],
            )
        )
        session.commit()
        session.scalars(select(RoundRow)).all()
        session.scalars(select(UploadRow)).all()
    assert len(said) == 4
    assert not [statement for statement in said if "cohort" in statement or "completed" in statement]


def test_a_replica_of_the_release_before_still_writes_its_uploads(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text(OLDER_INSERT))
        session.commit()
        assert [row.id for row in session.scalars(select(UploadRow))] == ["u2"]
