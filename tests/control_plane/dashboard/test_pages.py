"""A federation's pages: what they show, what each role may do on them, and what a form does."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update
from tests.control_plane.dashboard.browsing import stranger, visitor
from tests.control_plane.rest import Rest

from fedafd.domain.config import parse_agent_config
from fedafd.domain.config.reading import parse_config
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.hashing import sha256_of
from fedafd.domain.states import ParticipationState, RoundState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.model_repository import add_files, find_version
from fedafd.persistence.models import ModelVersionRow, utc_now
from fedafd.persistence.participation_repository import invite_cohort, list_participations, settle_participation
from fedafd.persistence.round_repository import get_round_by_number, transition_round

F = "/federations/trial"
COMPARED = f"{F}/models/compare?one=3&other=1"
NORTH = f"{F}/sites/north"
PAGES = [
    F, f"{F}/rounds/1", f"{F}/benefit", f"{F}/models", f"{F}/models/2", COMPARED, f"{F}/sites", NORTH, f"{F}/events"
]  # fmt: skip
FORMS = {
    "operator": [
        (f"{F}/rounds", {"count": "1"}),
        (f"{F}/rounds/4/cancel", {}),
        (f"{F}/sites", {"name": "south", "kind": "image", "aggregator": "fed.example:7443"}),
        (f"{F}/sites/south/invite", {}),
        (f"{F}/sites/south/revoke", {}),
        (f"{F}/models/1/promote", {}),
        (f"{F}/models/3/promote", {}),
        (f"{F}/models/rollback", {}),
    ],
    "admin": [
        ("/keys", {"name": "board", "role": "viewer", "days": ""}),
        ("/keys/board/rotate", {}),
        ("/keys/board/revoke", {}),
    ],
}


@pytest.fixture
async def trial(rest: Rest, tmp_path: Path) -> Rest:
    """A federation with a public set, one site and three versions."""
    await rest.federation()
    await rest.public_set(tmp_path)
    await rest.enrol("north")
    await rest.publish(3)
    return rest


async def test_pages_are_for_everybody_with_a_key_and_forms_for_whom_rest_lets(trial: Rest) -> None:
    people = {role: await visitor(trial, role) for role in ("viewer", "operator", "admin")}
    for path in PAGES:
        assert (await stranger(trial).http.get(path)).headers["location"] == f"/login?next={path.partition('?')[0]}"
        for person in people.values():
            assert "trial" in await person.page(path)
    assert (await people["operator"].http.get("/keys")).status_code == 403
    ranks = list(people)
    for least, forms in FORMS.items():
        for path, fields in forms:
            for role, person in people.items():
                if ranks.index(role) < ranks.index(least):
                    answer = await person.send(path, **fields)
                    assert (answer.status_code, f"role {least}" in answer.text) == (403, True)
            assert (await people[least].http.post(path, data=fields)).status_code == 403, "without the form's token"
            assert (await people[least].send(path, **fields)).status_code in (200, 303), path


async def test_a_viewer_is_shown_no_form_but_the_logout(trial: Rest) -> None:
    viewer = await visitor(trial, "viewer")
    for path in PAGES:
        forms = re.findall(r'<form method="post"[^>]*action="([^"]+)"', await viewer.page(path))
        assert forms == ["/logout"]


async def test_what_is_not_there_is_a_page_too(trial: Rest) -> None:
    admin = await visitor(trial)
    for path in ("/federations/nobody", f"{F}/rounds/99", f"{F}/models/99/archive", "/federations/nobody/benefit.csv"):
        assert "no such thing" in await admin.page(path, 404)
    for path in ("/federations/Wrong_Name", f"{F}/rounds/0", f"{F}/rounds/x", f"{F}?before=x", f"{F}/events?before=0"):
        assert 'role="alert"' in await admin.page(path, 422)


async def test_rounds_are_started_shown_and_cancelled(trial: Rest) -> None:
    admin = await visitor(trial)
    assert (await admin.send(f"{F}/rounds", count="2")).headers["location"] == F
    page = await admin.page(F)
    assert "2 rounds are queued" in page
    assert page.index("rounds/4") < page.index("rounds/5") < page.index("rounds/3") < page.index("rounds/2")
    for count in ("0", "1001", "x", "", "²", "9" * 30):
        assert (await admin.send(f"{F}/rounds", count=count)).status_code == 422
    assert "has not begun" in await admin.page(f"{F}/rounds/4")
    await admin.send(f"{F}/rounds/4/cancel")
    page = await admin.page(f"{F}/rounds/4")
    assert "Cancelled by admin" in page
    assert "Cancel the round" not in page
    assert (await admin.send(f"{F}/rounds/4/cancel")).status_code == 409


async def test_a_round_shows_each_site_with_bytes_and_why_it_was_lost(trial: Rest) -> None:
    admin = await visitor(trial)
    await admin.send(f"{F}/rounds", count="1")
    async with trial.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", 4)
        await transition_round(session, row, RoundState.PREPARING, token=1, actor="test", started_at=utc_now())
        await transition_round(session, row, RoundState.COLLECTING, token=1, actor="test")
        await invite_cohort(session, row.id, [await get_client(session, "trial", "north")])
    page = await admin.page(f"{F}/rounds/4")
    assert "north" in page
    assert 'class="bar invited"' in page
    async with trial.context.database.transaction() as session:
        ((part, _),) = await list_participations(session, row.id)
        part.bytes_up = 1_500_000
        left = {"reason": "<b>the deadline</b> passed"}
        await settle_participation(session, part.id, ParticipationState.DROPPED, **left)
    page = await admin.page(f"{F}/rounds/4")
    assert "1.5 MB" in page
    assert "&lt;b&gt;the deadline" in page
    assert 'style="' not in page
    history = await admin.page(NORTH)
    assert f'href="{F}/rounds/4">4</a>' in history
    assert "1.5 MB" in history
    assert "&lt;b&gt;the deadline" in history
    assert f'href="{NORTH}"' in await admin.page(f"{F}/sites")
    assert "There are no older rounds" in await admin.page(f"{NORTH}?before=4")
    await admin.page(f"{F}/sites/nobody", 404)


async def test_an_invitation_is_a_file_and_commands_that_work_and_shows_its_token_once(trial: Rest) -> None:
    admin = await visitor(trial)
    fields = {"name": "south", "kind": "pair", "aggregator": "[::1]:7443", "path": "/data/it's here"}
    answer = await admin.send(f"{F}/sites", **fields)
    blocks = [unescape(block) for block in re.findall(r"<pre[^>]*>(.*?)</pre>", answer.text, re.DOTALL)]
    token = blocks[0]
    assert token.startswith("fedafd-enrol.")
    config = parse_agent_config(yaml.safe_load(blocks[1]), "agent.yaml")
    assert (config.aggregator, config.kind.value, str(config.data.path)) == ("[::1]:7443", "pair", fields["path"])
    assert blocks[2].endswith(f"--token {token}")
    assert "'/data/it'\"'\"'s here:/data/it'\"'\"'s here:ro'" in blocks[3]
    assert token not in await admin.page(f"{F}/sites")
    again = await admin.send(f"{F}/sites/south/invite")
    assert re.findall(r"fedafd-enrol\.[\w-]+", again.text)[0] != token
    for changes, status in (
        ({"name": "Wrong Name"}, 422),
        ({"kind": "sound"}, 422),
        ({"aggregator": "nowhere"}, 422),
        ({"aggregator": "a:99999"}, 422),
        ({"path": "a\x00b"}, 422),
        ({"name": "north"}, 409),
    ):
        assert (await admin.send(f"{F}/sites", **(fields | changes))).status_code == status, changes


async def test_the_form_suggests_the_address_that_agents_dial(trial: Rest) -> None:
    admin = await visitor(trial)
    assert 'value="test:7443"' in await admin.page(f"{F}/sites")
    trial.app.state.context = replace(trial.context, agents_address="0.0.0.0:9443")
    assert 'value="test:9443"' in await admin.page(f"{F}/sites")
    trial.app.state.context = replace(trial.context, agents_address="agents.example:9443")
    assert 'value="agents.example:9443"' in await admin.page(f"{F}/sites")
    assert "agents.example:9443" in unescape((await admin.send(f"{F}/sites/north/invite")).text)


async def test_a_region_is_invited_and_invited_again_with_a_file_that_its_process_takes(trial: Rest) -> None:
    admin = await visitor(trial)
    fields = {"name": "west", "kind": "region", "max_clients": "40", "aggregator": "upper.example:7443"}
    for again in (False, True):
        answer = await (admin.send(f"{F}/sites/west/invite") if again else admin.send(f"{F}/sites", **fields))
        token, text, commands = [unescape(b) for b in re.findall(r"<pre[^>]*>(.*?)</pre>", answer.text, re.DOTALL)]
        config = parse_config(RegionConfig, yaml.safe_load(text), "region.yaml")
        assert (config.federation, str(config.aggregator)) == ("west", "test:7443" if again else "upper.example:7443")
        assert commands.endswith(f"fedafd region run -f region.yaml --token {token}")
        assert "for 40 sites at most" in answer.text
    for changes in ({"max_clients": ""}, {"max_clients": "0"}, {"max_clients": "many"}, {"kind": "image"}):
        assert (await admin.send(f"{F}/sites", **(fields | {"name": "east"} | changes))).status_code == 422, changes


async def test_a_version_is_promoted_and_rolled_back_and_compared(trial: Rest) -> None:
    admin = await visitor(trial)
    await admin.send(f"{F}/models/1/promote")
    page = await admin.page(f"{F}/models")
    assert "+2.0" in page
    assert "Roll back" not in page
    assert (await admin.send(f"{F}/models/rollback")).status_code == 409
    await admin.send(f"{F}/models/3/promote")
    assert "Roll back to version 2" in await admin.page(f"{F}/models")
    await admin.send(f"{F}/models/rollback")
    assert (await trial.http.get("/federations/trial")).json()["current_version"] == 2
    archive = await admin.http.get(f"{F}/models/2/archive")
    assert archive.headers["content-type"] == "application/x-tar"
    kinds = [each["kind"] for each in (await trial.http.get("/federations/trial/events")).json()["items"]]
    assert kinds[-4:] == ["model.promoted", "model.promoted", "model.rolled_back", "model.read"]
    assert "model.rolled_back" in await admin.page(f"{F}/events")


async def test_what_retention_left_of_a_version_is_told_and_no_more_is_offered(trial: Rest) -> None:
    admin = await visitor(trial)
    page = await admin.page(f"{F}/models")
    assert page.count("state, model") == 3
    assert "Roll back to version 2" in page
    async with trial.context.database.transaction() as session:
        old = update(ModelVersionRow).where(ModelVersionRow.version < 3)
        await session.execute(old.values(state_removed_at=utc_now(), files_removed_at=utc_now()))
    page = await admin.page(f"{F}/models")
    assert page.count("state, model") == 1
    for gone in ("Roll back", "models/2/archive", "Promote"):
        assert gone not in page
    assert (await admin.send(f"{F}/models/1/promote")).status_code == 409


async def test_two_versions_stand_side_by_side_before_one_is_promoted(trial: Rest) -> None:
    admin, viewer = await visitor(trial), await visitor(trial, "viewer")
    async with trial.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", 1)
        row.config = row.config | {"seed": 7, "server": row.config["server"] | {"passes": 9}}
    page = await admin.page(COMPARED)
    assert "-2.0" in page, "what the other one has less"
    for key, value in (("seed", "7"), ("server.passes", "9")):
        assert re.search(rf"<code>{key}</code></th><td><code>\d+</code></td><td><code>{value}</code>", page), key
    assert "fusion." not in page
    assert re.findall(r'href="[^"]*/models/(\d)">\d</a>', page) == ["3", "2", "1", "1"]
    assert f'action="{F}/models/1/promote"' in page
    assert "promote" not in await viewer.page(COMPARED)
    back = await admin.page(f"{F}/models/compare?one=3&other=2")
    assert f'action="{F}/models/rollback"' in back
    assert "The same." in back
    assert (await admin.page(f"{F}/models/compare?one=1&other=1")).count('id="promote-1"') == 1
    await admin.page(f"{F}/models/compare?one=3&other=99", 404)
    await admin.page(f"{F}/models/compare?one=3", 422)


async def test_a_versions_card_is_shown_and_can_do_nothing_but_be_read(trial: Rest) -> None:
    viewer = await visitor(trial, "viewer")
    page = await viewer.page(f"{F}/models/2")
    assert "This version has no model card." in page
    assert "weights/model.safetensors" in page
    card = (
        b"---\nlicense: other\n---\n# A *model*\n\n<script>alert(1)</script> ![p](http://elsewhere.example/p.png)\n\n"
        b"[bad](javascript:alert(1))\n\n| metric | value |\n|---|---|\n| rsum | 3 |\n"
    )
    async with trial.context.database.transaction() as session:
        row = await find_version(session, "trial", 2)
        assert row is not None
        trial.context.store.put("federations/trial/models/2/README.md", card)
        entry = {"sha256": sha256_of(card), "size_bytes": len(card), "key": "federations/trial/models/2/README.md"}
        await add_files(session, row, {"README.md": entry})
    page = await viewer.page(f"{F}/models/2")
    assert "<h2>A <em>model</em></h2>" in page
    assert "<td>rsum</td>" in page
    for never in ("license: other", "<script>alert", "<img src=", 'href="javascript'):
        assert never not in page.partition('class="card"')[2]
    kinds = [each["kind"] for each in (await trial.http.get("/federations/trial/events")).json()["items"]]
    assert kinds[-1] == "model.read"


async def test_a_long_list_has_pages(trial: Rest) -> None:
    admin = await visitor(trial)
    await trial.publish(30)
    for page, oldest in ((F, "rounds/1"), (f"{F}/models", "models/1")):
        first = await admin.page(page)
        older = re.search(rf'href="{page}\?before=(\d+)"', first)
        assert older is not None
        assert int(older.group(1)) == 33 - 24
        second = await admin.page(f"{page}?before={older.group(1)}")
        assert f'{F}/{oldest}"' in second
        assert "Older" not in second


async def test_a_key_is_shown_once_rotated_and_revoked(trial: Rest) -> None:
    admin = await visitor(trial)
    answer = await admin.send("/keys", name="board", role="viewer", days="30")
    (secret,) = re.findall(r'<pre id="secret"[^>]*>(.*?)</pre>', answer.text)
    assert (await stranger(trial).http.post("/login", data={"key": secret})).status_code == 303
    assert secret not in await admin.page("/keys")
    answer = await admin.send("/keys/board/rotate", hours="24")
    (other,) = re.findall(r'<pre id="secret"[^>]*>(.*?)</pre>', answer.text)
    assert "old secret good until" in answer.text
    for each in (secret, other):
        assert (await stranger(trial).http.post("/login", data={"key": each})).status_code == 303
    assert (await admin.send("/keys/board/rotate", hours="soon")).status_code == 422
    made = await admin.send("/keys", name="narrow", role="viewer", federations="trial")
    assert "<td>trial</td>" in made.text
    answer = await admin.send("/keys/board/rotate")
    (other,) = re.findall(r'<pre id="secret"[^>]*>(.*?)</pre>', answer.text)
    assert (await stranger(trial).http.post("/login", data={"key": secret})).status_code == 401
    assert (await stranger(trial).http.post("/login", data={"key": other})).status_code == 303
    (board,) = [key for key in (await trial.http.get("/api-keys")).json()["items"] if key["name"] == "board"]
    assert board["expires_at"] is not None
    secret = other
    await admin.send("/keys/board/revoke")
    assert (await stranger(trial).http.post("/login", data={"key": secret})).status_code == 401
    for changes in ({"name": "A B"}, {"role": "king"}, {"days": "0"}, {"days": "soon"}):
        assert (await admin.send("/keys", **({"name": "x", "role": "viewer", "days": ""} | changes))).status_code == 422


async def test_a_round_of_many_sites_has_pages(trial: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedafd.control_plane.dashboard.rounds._SITES", 2)
    admin = await visitor(trial)
    names = ["east", "north", "west"]
    for name in ("east", "west"):
        await trial.enrol(name)
    async with trial.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", 3)
        row.started_at = utc_now()
        await invite_cohort(session, row.id, [await get_client(session, "trial", name) for name in names])
    first = await admin.page(f"{F}/rounds/3")
    second = await admin.page(f"{F}/rounds/3?first=2")
    assert "Sites 1 to 2 of 3" in first
    assert [name for name in names if f">{name}</th>" in first] == ["east", "north"]
    assert [name for name in names if f">{name}</th>" in second] == ["west"]
    assert f"{F}/rounds/3?first=0" in second
