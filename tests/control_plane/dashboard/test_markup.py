"""Whatever stands in a free text of the database, no page makes an element, a handler or a script of it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from sqlalchemy import update
from tests.control_plane.dashboard.browsing import visitor
from tests.control_plane.dashboard.test_size import PAGES, F, fill
from tests.control_plane.rest import Rest

from fedafd.persistence.models import ApiKeyRow, Base, ClientRow, EventRow, ParticipationRow, RoundRow, StageRow

MARK = "<b id=planted>"
TEXT = f"""a'"`--></script></style></title></textarea>{MARK}<img src=x onerror=alert(1)><script>alert(2)</script>"""


class Planted(HTMLParser):
    """What a browser would make of a page, as far as that is no page of ours."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.shown = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_script = name in ("href", "src", "action") and (value or "").lower().lstrip().startswith("javascript:")
            if name.startswith("on") or is_script or (name, value) in (("id", "planted"), ("src", "x")):
                self.found.append(f"<{tag} {name}={value}>")
            self.shown += MARK in (value or "")

    def handle_data(self, data: str) -> None:
        self.shown += MARK in data


def look(page: str) -> Planted:
    planted = Planted()
    planted.feed(page)
    planted.close()
    return planted


def test_the_look_finds_what_is_planted() -> None:
    planted = look(f'<p title="{TEXT}">{TEXT}</p><a href=" JavaScript:alert(3)">x</a>')
    assert {"<b id=planted>", "<img onerror=alert(1)>", "<a href= JavaScript:alert(3)>"} <= set(planted.found)


async def test_no_page_makes_markup_of_a_text(rest: Rest) -> None:
    await fill(rest, 3, 3)
    changes: list[tuple[type[Base], dict[str, Any]]] = [
        (RoundRow, {"reason": TEXT, "state": "failed"}),
        (ParticipationRow, {"reason": TEXT, "activity": TEXT[:200], "state": "dropped"}),
        (StageRow, {"reason": TEXT, "activity": TEXT[:200], "worker": TEXT[:120]}),
        (EventRow, {"kind": TEXT[:64], "actor": TEXT[:200], "data": {TEXT: TEXT, "reason": TEXT, "client": TEXT}}),
        (ClientRow, {"exclusion_reason": TEXT, "excluded_from_round": 1, "agent_version": TEXT[:64]}),
    ]
    admin = await visitor(rest)
    async with rest.context.database.transaction() as session:
        for row, values in changes:
            await session.execute(update(row).values(**values))
        await session.execute(update(ApiKeyRow).where(ApiKeyRow.name != "admin").values(name=TEXT[:100]))
    shown = {}
    for path in PAGES:
        planted = look(await admin.page(path))
        assert planted.found == [], path
        shown[path] = planted.shown
    assert all(shown[path] for path in (F, f"{F}/rounds/2", f"{F}/sites", f"{F}/sites/site-00000", f"{F}/events"))


@pytest.mark.parametrize("path", ["/federations/", "/login?next=/", "/keys?x=", f"{F}/sites?after=", f"{F}/rounds/"])
async def test_no_page_makes_markup_of_its_address(rest: Rest, path: str) -> None:
    await rest.federation()
    for person in (await visitor(rest), None):
        http = rest.http if person is None else person.http
        base = "http://test" if person is None else ""
        answer = await http.get(f"{base}{path}{TEXT}")
        assert look(answer.text).found == [] or "json" in answer.headers["content-type"]
