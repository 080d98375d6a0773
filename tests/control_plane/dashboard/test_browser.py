"""The operator's way in a real browser: from the login to a promoted model, by mouse and by keyboard alone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.control_plane.dashboard.test_benefit import TOLD, deliver
from tests.control_plane.rest import KEY, Rest, listening, settings_for

from fedafd.storage import StoreSettings

if TYPE_CHECKING:
    from playwright.async_api import Page

playwright = pytest.importorskip("playwright.async_api")
axe = pytest.importorskip("axe_playwright_python.async_playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900, "light"), "phone": (390, 844, "dark")}
KEPT_IN = os.environ.get("FEDAFD_TEST_SCREENSHOTS")
F = "/federations/trial"
PATHS = [
    "/",
    F,
    *(f"{F}/{path}" for path in ("rounds/2", "benefit", "models", "models/2", "models/compare?one=3&other=1", "sites")),
    f"{F}/sites/north",
    f"{F}/configuration",
    f"{F}/events",
    "/keys",
]


@dataclass
class Watched:
    """A page, what it said on the console, and whom it asked."""

    page: Page
    url: str
    size: str
    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.url}{path}")

    async def check(self) -> None:
        """No fault that axe finds, nothing wider than the window. The page is kept as a picture, to be looked at."""
        if KEPT_IN:
            name = re.sub(r"\W+", "-", self.page.url.removeprefix(self.url)).strip("-") or "home"
            place = Path(KEPT_IN) / f"{name}-{self.size}-{len(self.asked)}.png"
            await self.page.screenshot(path=place, full_page=True)
        found = await axe.Axe().run(self.page)
        assert found.violations_count == 0, f"{self.page.url}: {found.generate_report()}"
        assert not await self.page.evaluate("document.documentElement.scrollWidth > innerWidth"), self.page.url

    async def log_in(self) -> None:
        await self.open("/")
        await self.page.get_by_label("API key").fill(KEY)
        await self.page.keyboard.press("Enter")
        await self.page.wait_for_selector("text=Log out")


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rest]:
    """A federation of one site with three versions, and what the site told of them."""
    if BROWSER is None:
        pytest.skip("no chromium is installed here: apt-get install chromium")
    settings = settings_for(f"sqlite:///{tmp_path}/live.db", StoreSettings(url=str(tmp_path / "store")))
    async with listening(settings) as rest:
        await rest.federation()
        await rest.public_set(tmp_path)
        await rest.enrol("north")
        await rest.publish(3)
        await deliver(rest, 2, TOLD)
        yield rest


@asynccontextmanager
async def browser(live: Rest, size: str, *others: str) -> AsyncIterator[Watched]:
    """A page that asks nobody but the control plane, and `others`."""
    width, height, scheme = SIZES[size]
    async with playwright.async_playwright() as driver:
        opened = await driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = await opened.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(60_000)
        watched = Watched(page, live.url, size)
        page.on("console", lambda message: watched.told.append(message.text))
        page.on("pageerror", lambda error: watched.told.append(str(error)))
        page.on("request", lambda request: watched.asked.append(request.url))
        yield watched
        await opened.close()
    assert watched.told == []
    elsewhere = [url for url in watched.asked if not url.startswith((live.url, "data:", "blob:", *others))]
    assert elsewhere == []


def idat(picture: bytes) -> bytes:
    """The compressed pixels of a PNG."""
    found, at = b"", 8
    while at < len(picture):
        size, kind = struct.unpack(">I4s", picture[at : at + 8])
        found += picture[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", SIZES)
async def test_an_operator_comes_from_the_login_to_a_promoted_model(live: Rest, size: str) -> None:
    async with browser(live, size) as seen:
        page = seen.page
        page.on("dialog", lambda dialog: dialog.accept())
        await seen.open(f"{F}/models")
        await seen.check()
        await page.get_by_label("API key").fill("wrong")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("alert").wait_for()
        seen.told.clear()  # the browser tells of the 401 itself
        await seen.log_in()
        assert await page.get_by_text("no aggregator is running").count() > 0
        for path in PATHS:
            await seen.open(path)
            await seen.check()
        await seen.open("/")
        await page.get_by_role("link", name="trial", exact=True).click()
        await page.get_by_role("link", name="Does it help?").click()
        await page.get_by_text("it helps 1").wait_for()
        async with page.expect_download() as kept:
            await page.get_by_role("button", name="Picture of north (text, acc1) as PNG").click()
        picture = await asyncio.to_thread((await (await kept.value).path()).read_bytes)
        assert (await kept.value).suggested_filename == "trial-site-north.png"
        assert picture.startswith(b"\x89PNG") and struct.unpack(">2I", picture[16:24]) == (1280, 552)
        assert len(set(zlib.decompress(idat(picture)))) > 50, "more than one colour"
        await page.get_by_role("link", name="Models").click()
        await page.get_by_role("link", name="Promote version 1").click()
        await page.get_by_role("button", name="Promote version 1").click()
        await page.locator("tr", has=page.get_by_role("link", name="Promote version 3")).wait_for()
        assert await page.locator("tr", has_text="current").get_by_role("link", name="1", exact=True).count() == 1
    assert (await live.http.get("/federations/trial")).json()["current_version"] == 1


@pytest.mark.timeout(300)
async def test_a_page_shows_what_happens_without_being_loaded_again(live: Rest) -> None:
    async with browser(live, "desktop") as seen:
        await seen.log_in()
        await seen.open(F)
        await seen.page.evaluate("window.stays = true")
        await seen.page.get_by_label("Number of rounds").fill("7")
        await live.http.post("/federations/trial/rounds", json={"count": 2})
        await seen.page.get_by_text("2 rounds are queued").wait_for()
        assert await seen.page.evaluate("window.stays") is True
        assert await seen.page.get_by_label("Number of rounds").input_value() == "7"
        await live.http.delete("/api-keys/admin")  # refused: the last admin's
        await live.key("other", "admin")
        await live.http.delete("/api-keys/admin")
        await seen.page.get_by_label("API key").wait_for()


@pytest.mark.timeout(300)
async def test_a_site_is_invited_by_keyboard_alone(live: Rest) -> None:
    async with browser(live, "desktop") as seen:
        page = seen.page
        await seen.log_in()
        await seen.open(f"{F}/sites")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.innerText") == "Skip to the content"
        await page.keyboard.press("Enter")
        for _ in range(20):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.id") == "name":
                break
        await page.keyboard.type("south")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#enrolment-token")
        assert (await page.locator("#enrolment-token").inner_text()).startswith("fedafd-enrol.")
        await seen.check()


async def tab_to(page: Page, found: str, most: int = 200) -> None:
    """Press Tab until `found` holds for the element that has the focus."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        if await page.evaluate(f"(it => {found})(document.activeElement)"):
            return
    pytest.fail(f"Tab does not come to {found}")


@pytest.mark.timeout(300)
async def test_a_configuration_is_changed_by_keyboard_alone(live: Rest) -> None:
    async with browser(live, "desktop") as seen:
        page = seen.page
        await seen.log_in()
        await seen.open(f"{F}/configuration")
        await tab_to(page, "it.matches('#block-server > summary')")
        await page.keyboard.press("Enter")
        await tab_to(page, "it.id == 'key-server-passes'")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("many")
        await page.keyboard.press("Enter")
        await page.get_by_role("alert").wait_for()
        seen.told.clear()  # the browser tells of the 422 itself
        await seen.check()
        await tab_to(page, "it.matches('#wrong a')")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "key-server-passes"
        await page.keyboard.press("Control+a")
        await page.keyboard.type("7")
        await page.keyboard.press("Enter")
        await page.get_by_text("That can be saved.").wait_for()
        await seen.check()
        await tab_to(page, "it.value == 'save'")
        await page.keyboard.press("Enter")
        await page.get_by_text("Version 2.").wait_for()
    assert (await live.http.get("/federations/trial")).json()["config"]["server"]["passes"] == 7


@pytest.mark.timeout(300)
async def test_the_apis_page_works_without_internet(live: Rest) -> None:
    async with browser(live, "desktop") as seen:
        await seen.open("/docs")
        await seen.page.get_by_text("/v1/status", exact=True).wait_for()
