"""Rows of older versions hold NaN and infinity: whoever reads them sees that there is no number, and nothing breaks.

What comes in today is checked where it enters (tests/aggregator/test_bad_uploads.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from tests.control_plane.dashboard.test_size import PAGES, F, fill
from tests.control_plane.rest import KEY, Rest, in_a_thread, settings_for
from typer.testing import CliRunner

from fedafd.cli.main import app
from fedafd.persistence.models import EventRow, ModelVersionRow, ParticipationRow, RoundRow, StageRow
from fedafd.storage import StoreSettings

HEADERS = {"Authorization": f"Bearer {KEY}"}
ROUND = "/v1/federations/trial/rounds/3"
COMMANDS = (
    ("round", "show", "3"),
    ("round", "show", "2"),
    ("round", "list"),
    ("client", "list"),
    ("client", "show", "site-00000"),
    ("model", "list"),
    ("status",),
    ("events",),
)
"""Of which `status` has a trouble to tell: no aggregator runs."""
METRICS = ("local/acc1", "federated/acc1", "global/acc1", "alone/acc1", "over_local/difference", "rsum", "i2t_r1")


@pytest.fixture(params=[math.nan, math.inf])
def server(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    value, is_sqlite = request.param, database_url.startswith("sqlite")
    # SQLite makes NULL of NaN in a column of floats, and PostgreSQL's JSON has neither.
    share = math.inf if is_sqlite else value

    async def prepare(rest: Rest) -> None:
        await fill(rest, 3, 3)
        metrics = dict.fromkeys(METRICS, value)
        async with rest.context.database.transaction() as session:
            await session.execute(update(RoundRow).where(RoundRow.number == 3).values(state="collecting"))
            await session.execute(update(ParticipationRow).values(progress=share, farthest=share, state="training"))
            await session.execute(update(StageRow).values(progress=share, state="running"))
            if is_sqlite:
                known = {"weight": 0.5, "similarity": value, "agreement": value, "left_out": False}
                contributions = {"image": known, "text": known | {"weight": value}}
                await session.execute(update(RoundRow).values(metrics=metrics))
                await session.execute(update(ParticipationRow).values(metrics=metrics, contributions=contributions))
                await session.execute(update(StageRow).values(metrics=metrics))
                await session.execute(update(ModelVersionRow).values(metrics=metrics))
                await session.execute(update(EventRow).values(data={"rsum": value}))

    with in_a_thread(settings_for(database_url, StoreSettings(url=str(tmp_path / "store"))), prepare) as url:
        yield url


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_nothing_that_reads_breaks_on_what_is_no_number(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = httpx.get(f"{server}/openapi.json", timeout=60).json()
    filled = {"federation": "trial", "number": "3", "client": "site-00000", "version": "2"}
    asked = 0
    with httpx.Client(base_url=server, headers=HEADERS, timeout=60) as http:
        for path, operations in document["paths"].items():
            if "get" not in operations or "{path}" in path or path.endswith("/archive"):
                continue
            answer = http.get(path.format_map(filled | {"name": "admin"}), headers={"Accept": "application/json"})
            assert answer.status_code < 500 or path == "/readyz", (path, answer.text)
            if "json" in answer.headers["content-type"]:
                strict(answer.text)
            asked += answer.is_success
        assert asked > 15
        part = strict(http.get(ROUND).text)["participations"][0]
        assert part["progress"] is None or 0 <= part["progress"] <= 1
        assert http.post("/login", data={"key": KEY}).status_code == 303
        for page in (*PAGES, f"{F}/rounds/3"):
            shown = http.get(page)
            assert shown.status_code == 200, (page, shown.text)
            text = shown.text.lower()
            assert "nan" not in [word.strip("%,;<>") for word in text.split()], page
            assert '"nan"' not in text and '"inf"' not in text, page
    monkeypatch.setenv("FEDAFD_URL", server)
    monkeypatch.setenv("FEDAFD_API_KEY", KEY)
    monkeypatch.setenv("FEDAFD_FEDERATION", "trial")
    for command in COMMANDS:
        told = CliRunner().invoke(app, command)
        assert told.exit_code == (1 if command == ("status",) else 0), (command, told.output, told.exception)
        data = CliRunner().invoke(app, [*command, "--json"]).output
        for document in data.splitlines() if command == ("events",) else [data]:
            strict(document)
