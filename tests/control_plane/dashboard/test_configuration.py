"""A federation's configuration as a form: checked, compared, saved as it was seen; each fault stands at its field."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import hypothesis
import hypothesis.strategies as st
from tests.control_plane.dashboard.browsing import Visitor, visitor
from tests.control_plane.rest import Rest

from fedafd.control_plane.dashboard.config_form import PREFIX, checked, sections, values_of
from fedafd.domain.config import FederationConfig

C = "/federations/trial/configuration"
CONFIG: dict[str, Any] = FederationConfig.model_validate({"name": "trial", "preset": "small"}).model_dump(mode="json")


PATHS = list(values_of(CONFIG))


def fields(page: str) -> dict[str, str]:
    """What a browser would send of a page's form, with what is chosen in it."""
    written = re.findall(r'<input (?![^>]*disabled)[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page)
    chosen = re.findall(
        r'<select (?![^>]*disabled)[^>]*name="([^"]+)"[^>]*>.*?<option selected>([^<]*)</option>', page, re.DOTALL
    )
    return {name: unescape(value) for name, value in [*written, *chosen] if name != "token"}


async def send(person: Visitor, given: dict[str, str], status: int = 200) -> str:
    answer = await person.send(C, **given)
    assert answer.status_code == status, answer.text
    return answer.text


async def test_a_change_is_shown_before_it_is_saved_and_saved_as_it_was_shown(rest: Rest) -> None:
    await rest.federation()
    person = await visitor(rest, "operator")
    page = await person.page(C)
    form = fields(page)
    assert "Nothing differs" in await send(person, form | {"do": "check"})
    wanted = form | {"key.server.passes": "7", "key.wire_dtype": "int8", "key.round_deadline_seconds": ""}
    page = await send(person, wanted | {"do": "save"})
    assert "Save as version 2" in page, "nothing is saved that was not shown"
    for key, then in (("server.passes", "<code>7</code>"), ("wire_dtype", "<code>int8</code>")):
        assert re.search(rf"<code>{key}</code></th><td><code>\w+</code></td><td>{then}", page), key
    seen = fields(page)
    page = await send(person, seen | {"key.server.passes": "8", "do": "save"})
    assert "<code>8</code>" in page, "what was written since is shown first"
    assert (await rest.http.get("/federations/trial")).json()["config_version"] == 1
    await send(person, fields(page) | {"do": "save"}, 303)
    found = (await rest.http.get("/federations/trial")).json()
    assert found["config_version"] == 2
    assert (found["config"]["server"]["passes"], found["config"]["round_deadline_seconds"]) == (8, None)


async def test_each_fault_stands_at_its_field_and_what_was_written_stays(rest: Rest) -> None:
    await rest.federation()
    person = await visitor(rest, "operator")
    wrong = {"key.server.passes": "many", "key.seed": "-1", "key.distillation.self_share": "9"}
    page = await send(person, fields(await person.page(C)) | wrong | {"do": "save"}, 422)
    assert "Save as version" not in page
    for name in ("server-passes", "seed", "distillation-self_share"):
        control = re.search(rf'<input id="key-{name}"[^>]*>', page)
        assert control is not None
        assert 'aria-invalid="true"' in control.group(0)
        assert f'key-{name}-wrong"' in control.group(0)
        assert f'<p id="key-{name}-wrong"' in page
        assert f'href="#key-{name}"' in page
    assert 'value="many"' in page
    assert (await rest.http.get("/federations/trial")).json()["config_version"] == 1


async def test_what_cannot_be_stored_is_told_beside_what_was_written(rest: Rest) -> None:
    await rest.federation()
    person = await visitor(rest, "operator")
    page = await send(person, fields(await person.page(C)) | {"key.text_encoder.architecture": "a\x00b", "do": "check"})
    page = await send(person, fields(page) | {"do": "save"}, 409)
    assert "Not saved." in page
    assert (await rest.http.get("/federations/trial")).json()["config_version"] == 1


async def test_somebody_elses_change_is_not_overwritten(rest: Rest) -> None:
    await rest.federation()
    person = await visitor(rest, "operator")
    page = await send(person, fields(await person.page(C)) | {"key.seed": "5", "do": "check"})
    config = (await rest.http.get("/federations/trial")).json()["config"] | {"idle_timeout_seconds": 99}
    assert (await rest.http.put("/federations/trial", json=config)).status_code == 200
    assert "somebody changed it" in await send(person, fields(page) | {"do": "save"}, 409)
    assert (await rest.http.get("/federations/trial")).json()["config"]["seed"] == 0


async def test_what_shapes_the_model_is_fixed_once_there_is_one_and_a_viewer_changes_nothing(rest: Rest) -> None:
    await rest.federation()
    operator, viewer = await visitor(rest, "operator"), await visitor(rest, "viewer")
    assert "key.embedding_dim" in fields(await operator.page(C))
    await rest.publish(1)
    page = await operator.page(C)
    assert not {"key.embedding_dim", "key.image_encoder.architecture", "key.name", "key.preset"} & fields(page).keys()
    assert "Nothing differs" in await send(operator, fields(page) | {"key.embedding_dim": "16", "do": "check"})
    page = await viewer.page(C)
    assert "embedding_dim" in page
    assert "<input id=" not in page
    assert (await viewer.send(C, do="save")).status_code == 403


def test_every_key_is_a_field_and_what_is_not_changed_stays() -> None:
    blocks = sections(checked(CONFIG, lambda _: None, ()), ()).values()
    sent = {PREFIX + each.key.path: each.shown for block in blocks for each in block}
    top = {path.split(".")[0] for path in PATHS}
    assert top == CONFIG.keys()
    assert sent.keys() == {PREFIX + path for path in PATHS}
    found = checked(CONFIG, sent.get, ())
    assert (found.values, found.problems, found.written) == (CONFIG, {}, {})


async def test_a_block_that_is_left_out_is_switched_on_filled_in_and_switched_off(rest: Rest) -> None:
    await rest.federation()
    person = await visitor(rest, "operator")
    form = fields(await person.page(C))
    assert form["key.image_encoder.lora"] == "null"
    assert "key.image_encoder.lora.rank" not in form
    page = await send(person, form | {"key.image_encoder.lora": "on", "do": "save"}, 422)
    assert "goes with trainable: lora" in page
    wanted = {"key.image_encoder.lora": "on", "key.image_encoder.trainable": "lora", "do": "check"}
    page = await send(person, form | wanted)
    seen = fields(page)
    assert seen["key.image_encoder.lora.rank"] == "8", "what is in it by default stands there to be changed"
    page = await send(person, seen | {"key.image_encoder.lora.rank": "4", "do": "check"})
    await send(person, fields(page) | {"do": "save"}, 303)
    stored = (await rest.http.get("/federations/trial")).json()["config"]["image_encoder"]
    assert (stored["lora"]["rank"], stored["trainable"]) == (4, "lora")
    form = fields(await person.page(C))
    assert form["key.image_encoder.lora"] == "on"
    page = await send(person, form | {"key.image_encoder.lora": "null", "do": "check"})
    assert "key.image_encoder.lora.rank" not in fields(page)
    await send(person, fields(page) | {"do": "save"}, 303)
    assert (await rest.http.get("/federations/trial")).json()["config"]["image_encoder"]["lora"] is None


def test_a_prefix_of_nothing_is_not_no_prefix() -> None:
    path = "text_encoder.prefix"
    for text, value in (("", ""), ("null", None), ("query: ", "query: ")):
        assert checked(CONFIG, {PREFIX + path: text}.get, ()).values["text_encoder"]["prefix"] == value


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.dictionaries(st.sampled_from(PATHS), st.sampled_from(["on", "null"]) | st.text(max_size=12), max_size=3)
)
def test_whatever_is_written_is_a_configuration_or_a_fault_of_a_key(written: dict[str, str]) -> None:
    found = checked(CONFIG, {PREFIX + path: text for path, text in written.items()}.get, ("name",))
    if not found.problems:
        FederationConfig.model_validate(found.values)
    known = {*PATHS, ""}
    assert found.problems.keys() <= known
    assert found.written.keys() <= written.keys()
    sections(found, ())
