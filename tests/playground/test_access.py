"""Keyboard, screen readers, small screens, light and dark."""

from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.servers import Server
from tests.support.playground.axe import grave_findings
from tests.support.playground.browser import NARROW, context
from tests.support.playground.page import Playground

PARK = "Tell me about a walk in the park."
VIEWS = ("Compare", "Vectors", "Make", "Server")


def tab_to(page: Page, name: str, most: int = 80) -> None:
    """Press Tab until what is focused has this name."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.locator("*:focus").count() and focused_name(page) == name:
            return
    raise AssertionError(f"{name!r} is not reached by Tab")


def focused_name(page: Page) -> str:
    name: str = page.evaluate(
        """() => {
          const one = document.activeElement;
          const label = one.labels?.[0]?.textContent;
          return (one.getAttribute('aria-label') || label || one.textContent || '').trim();
        }"""
    )
    return name


def open_controls(page: Page) -> None:
    """Show what is under a vector, with a gate, and something that is read."""
    page.locator("details.use-details > summary").click()
    page.get_by_label("Only where something is so").check()
    page.locator("details.reads > summary").click()
    add = page.get_by_role("combobox", name="Read along…")
    add.fill("formal")
    add.press("Enter")


def test_by_keyboard_alone(play: Playground) -> None:
    page = play.page
    page.keyboard.press("Tab")
    assert focused_name(page) == "Skip to the page"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(page, "Message")
    page.keyboard.press("Control+A")
    page.keyboard.type("Say hello.")
    page.keyboard.press("Enter")
    play.wait()
    first = play.answers()[1]
    page.keyboard.press("Shift+Tab")
    tab_to(page, "Skip to the page", 200)
    # The number first, then the slider.
    tab_to(page, "Coefficient of cheerful")
    tab_to(page, "Coefficient of cheerful")
    assert page.evaluate("document.activeElement.type") == "range"
    for _ in range(8):
        page.keyboard.press("PageDown")
    expect(play.answer(1).locator(".answer-text")).not_to_have_text(first)
    tab_to(page, "Copy as: Unsteered")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert focused_name(page) == "Copy as: Unsteered"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_axe_finds_nothing_grave(
    server: Server, browser: Browser, scheme: Literal["light", "dark"], size: str
) -> None:
    options: dict[str, Any] = {"viewport": NARROW} if size == "narrow" else {}
    with context(browser, server.url, color_scheme=scheme, **options) as page:
        play = Playground(page).open()
        found = {"first visit": grave_findings(play)}
        open_controls(page)
        found["controls"] = grave_findings(play)
        play.page.get_by_role("checkbox", name="Dynamic").check()
        play.say(PARK, 8)
        play.wait()
        play.answer(1).locator("details.receipt summary").click()
        found["Compare"] = grave_findings(play)
        page.get_by_role("button", name="Copy as: Unsteered").click()
        found["dialog"] = grave_findings(play)
        page.keyboard.press("Escape")
        for view in VIEWS[1:]:
            play.show(view)
            if view == "Vectors":
                page.get_by_role("button", name="cheerful").click()
                expect(page.get_by_text("Words it points to")).to_be_visible()
            found[view] = grave_findings(play)
        assert {view: what for view, what in found.items() if what} == {}


def test_390_pixels_are_enough(server: Server, browser: Browser) -> None:
    with context(browser, server.url, viewport=NARROW, has_touch=True) as page:
        play = Playground(page).open()
        # What to do comes before what can be moved.
        send = page.get_by_role("button", name="Send", exact=True).bounding_box()
        slider = play.slider("cheerful").bounding_box()
        assert send is not None
        assert slider is not None
        assert send["y"] + send["height"] < NARROW["height"] < slider["y"]
        open_controls(page)
        play.say(PARK, 12)
        play.wait()
        boxes = [play.answer(n).bounding_box() for n in (0, 1)]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[1]["y"] > boxes[0]["y"]
        for view in VIEWS:
            play.show(view)
            if view == "Vectors":
                page.get_by_role("button", name="cheerful").click()
                expect(page.get_by_text("Words it points to")).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= NARROW["width"], view


def test_the_colours_are_the_systems_until_somebody_chooses(
    server: Server, browser: Browser
) -> None:
    with context(browser, server.url, color_scheme="dark") as page:
        Playground(page).open()
        dark = background(page)
        page.get_by_role("button", name="Light colours").click()
        light = background(page)
        assert dark != light
    with context(browser, server.url, color_scheme="light") as page:
        Playground(page).open()
        assert background(page) == light


def background(page: Page) -> str:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


def test_nothing_moves_for_those_who_want_no_motion(server: Server, browser: Browser) -> None:
    with context(browser, server.url, reduced_motion="reduce") as page:
        play = Playground(page).open()
        play.say(PARK, 200)
        expect(play.answer(0).locator(".caret")).to_be_visible()
        moving = page.evaluate("document.getAnimations().length")
        assert moving == 0
        page.get_by_role("button", name="Stop").click()
        play.wait()
