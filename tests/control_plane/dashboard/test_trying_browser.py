"""Trying a version in a real browser: by keyboard, by a dropped picture, on a phone in the dark, without loading."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from tests.control_plane.dashboard.test_browser import BROWSER, SIZES, F, browser, tab_to
from tests.control_plane.rest import Rest, listening, settings_for
from tests.control_plane.trying import own_database, publish_models, query_worker

from fedafd.storage import StoreSettings

DROP = """([place, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
  const dropped = { dataTransfer: carried, bubbles: true, cancelable: true };
  document.querySelector(place).dispatchEvent(new DragEvent("drop", dropped));
}"""


@pytest.fixture
def queries(redis_url: str) -> str:
    return own_database(redis_url, 10)


@pytest.fixture
async def live(tmp_path: Path, queries: str) -> AsyncIterator[Rest]:
    if BROWSER is None:
        pytest.skip("no chromium is installed here: apt-get install chromium")
    store = StoreSettings(url=str(tmp_path / "store"))
    settings = settings_for(f"sqlite:///{tmp_path}/live.db", store, redis_url=queries)
    async with listening(settings) as rest:
        await publish_models(rest, tmp_path)
        yield rest


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", SIZES)
async def test_a_version_is_tried(live: Rest, tmp_path: Path, queries: str, size: str) -> None:
    made = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(made, "PNG")
    async with browser(live, size) as seen:
        page = seen.page
        await seen.log_in()
        await seen.open(f"{F}/try")
        await page.get_by_text("No query worker is running").wait_for()
        await seen.check()
        with query_worker(queries, tmp_path):
            await seen.open(f"{F}/models/compare?one=2&other=1")
            await page.get_by_role("link", name="Try both").click()
            await page.get_by_text("Nothing was asked yet.").wait_for()
            await page.evaluate("window.stays = true")
            await tab_to(page, "it.id == 'caption'")
            await page.keyboard.type("a large red circle")
            await page.keyboard.press("Enter")
            await page.get_by_text("Pictures for “a large red circle”").wait_for()
            await page.locator(".hits img").nth(17).wait_for()
            assert await page.locator(".hits img").count() == 18, "nine of each version"
            assert await page.evaluate("[...document.querySelectorAll('.hits img')].every((it) => it.naturalWidth)")
            await seen.check()
            await page.evaluate(DROP, ["#drop", list(made.getvalue())])
            await page.get_by_text("Captions for your picture").wait_for()
            await page.locator("#preview").wait_for()
            await page.locator(".hits.picture li").nth(23).wait_for()
            await seen.check()
            await page.get_by_label("Caption", exact=True).fill("")
            await page.get_by_role("button", name="Find pictures").click()
            await page.get_by_role("alert").wait_for()
            assert "Type a caption" in await page.get_by_role("alert").inner_text()
            assert [each for each in seen.told if "422" not in each] == []
            seen.told.clear()  # the browser tells of the 422 itself
            assert await page.evaluate("window.stays") is True
