"""Each view as a picture. `make pictures` keeps those that the docs show in docs/figures."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from bench.servers import Server
from tests.support.playground.browser import NARROW, context
from tests.support.playground.page import Playground

WEEKEND = "Tell me about your weekend."
SIZE = {"width": 1280, "height": 800}


DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    if os.environ.get("STEERSMAN_PICTURES") == "keep":
        shown = (DOCS / "playground.md").read_text()
        for picture in tmp_path.glob("*.png"):
            if picture.name in shown:
                shutil.copy2(picture, DOCS / "figures" / picture.name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_has_its_picture(
    server: Server, browser: Browser, folder: Path, scheme: str
) -> None:
    options: dict[str, Any] = {"viewport": SIZE, "color_scheme": scheme, "device_scale_factor": 1.5}
    made = []

    def take(name: str) -> None:
        path = folder / f"playground-{name}-{scheme}.png"
        page.mouse.move(0, 0)
        page.screenshot(path=path, animations="disabled")
        made.append(path)

    with context(browser, server.url, **options) as page:
        play = Playground(page).open()
        add = page.get_by_role("combobox", name="Add a vector")
        add.fill("first_person")
        add.press("Enter")
        play.set_slider("first_person", 1)
        play.set_slider("cheerful", 1.25)
        play.say(WEEKEND, 90)
        play.wait()
        take("compare")
        page.locator("details.reads > summary").click()
        read = page.get_by_role("combobox", name="Read along…")
        read.fill("cheerful")
        read.press("Enter")
        page.locator("fieldset.read").get_by_label("Measure").select_option("cosine")
        expect(page.locator(".answer canvas")).to_be_visible()
        play.wait()
        play.answer(1).locator(".token").nth(12).hover()
        page.screenshot(path=folder / f"playground-read-{scheme}.png", animations="disabled")
        made.append(folder / f"playground-read-{scheme}.png")
        page.get_by_role("button", name="Do not read along cheerful").click()
        page.get_by_role("checkbox", name="Dynamic").check()
        expect(page.locator(".answer canvas")).to_be_visible()
        play.wait()
        play.answer(1).locator(".token").nth(12).hover()
        page.screenshot(path=folder / f"playground-dynamic-{scheme}.png", animations="disabled")
        made.append(folder / f"playground-dynamic-{scheme}.png")
        play.show("Vectors")
        page.get_by_role("button", name="cheerful").click()
        expect(page.get_by_text("Words it points to")).to_be_visible()
        take("vectors")
        play.show("Make")
        page.get_by_role("button", name="Fill in an example").click()
        take("make")
        play.show("Server")
        expect(page.get_by_text("Bank rows in use")).to_be_visible()
        take("server")
    assert all(path.stat().st_size > 20_000 for path in made)


def test_a_phone_has_its_picture(server: Server, browser: Browser, folder: Path) -> None:
    with context(browser, server.url, viewport=NARROW, device_scale_factor=2) as page:
        play = Playground(page).open()
        play.say(WEEKEND, 60)
        play.wait()
        page.screenshot(path=folder / "playground-phone.png", full_page=True, animations="disabled")
