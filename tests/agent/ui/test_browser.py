"""The page in a real browser, served by `fedafd agent ui` as a person starts it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.agent.ui.served import served
from tests.agent.ui.site import after_two_rounds, picture_site, site_config
from tests.servers import wait_until

from fedafd.domain.config import AgentConfig
from fedafd.domain.kinds import ClientKind

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
SIZES = {"desktop": (1280, 900, "light"), "phone": (390, 844, "dark")}


def try_the_model(page: Page, config: AgentConfig) -> None:
    if config.kind is ClientKind.IMAGE:
        page.set_input_files("#file", str(next(Path(str(config.data.path)).rglob("*.png"))))
        page.get_by_role("button", name="Try it").press("Enter")
    elif config.kind is ClientKind.TEXT:
        page.get_by_label("A text").fill("a large red circle")
        page.get_by_role("button", name="Try it").click()
    else:
        page.get_by_role("button", name="Read the pictures").click()
        page.get_by_label("A caption finds pictures").fill("a red circle")
        page.keyboard.press("Enter")
    page.wait_for_selector(".answer")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "size"), [("image", "desktop"), ("text", "desktop"), ("pair", "phone")])
def test_every_section_works_and_asks_nobody_else(tmp_path: Path, kind: str, size: str) -> None:
    if BROWSER is None:
        pytest.skip("no chromium is installed here: apt-get install chromium")
    config = after_two_rounds(picture_site(tmp_path) if kind == "image" else site_config(tmp_path, ClientKind(kind)))
    width, height, scheme = SIZES[size]
    with served(config, tmp_path) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(120_000)
        told: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        # What is still being loaded when the next page is asked for is broken off.
        page.on("requestfailed", lambda r: told.extend([f"{r.url}: {r.failure}"] * (r.failure != "net::ERR_ABORTED")))
        page.goto(address)
        origin = address.partition("/?")[0]
        assert re.fullmatch(re.escape(origin) + r"/[\w-]{40,}/", page.url)
        page.get_by_role("button", name="Look at every sample").click()
        page.wait_for_selector("text=Looked at")
        if kind != "text":
            page.locator("#sheet img").scroll_into_view_if_needed()
            wait_until(lambda: page.locator("#sheet img").evaluate("i => i.naturalWidth") > 100, "the contact sheet")
        for section in ("Data", "Rounds", "What left", "Model"):
            page.get_by_role("link", name=section, exact=True).click()
            anchor = page.url.partition("#")[2]
            assert page.locator(f"#{anchor} h2").is_visible()
            assert (
                page.locator(f"#{anchor} h2").bounding_box()["y"] > page.locator("header").bounding_box()["height"] - 1
            )
        try_the_model(page, config)
        assert page.url.endswith("#model")
        if kind == "pair":
            first = page.locator(".found img").first
            wait_until(lambda: first.evaluate("i => i.naturalWidth") > 0, "the first picture")
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", paper)[0]) < 100) is (scheme == "dark")
        page.get_by_role("link", name="with whole hashes").click()
        assert page.get_by_text("e" * 64).count() == 1
        browser.close()
    assert told == []
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {origin.split("/")[2]}


def test_everything_can_be_reached_by_keyboard(tmp_path: Path) -> None:
    if BROWSER is None:
        pytest.skip("no chromium is installed here: apt-get install chromium")
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT))
    with served(config, tmp_path) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        reached = []
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("(document.activeElement.innerText || document.activeElement.id).trim()"))
        browser.close()
    assert reached[:5] == ["Skip to the content", "Data", "Rounds", "What left", "Model"]
    assert {"Look at every sample", "text", "Try it"} <= set(reached)
