"""What a server does not offer, the page does not hint at; what it offers has its controls."""

import json
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.support.playground.page import Playground

OPERATIONS = ["add", "project", "clamp", "replace"]


def offer(page: Page, **changes: Any) -> Playground:
    """The playground of a server whose capabilities have these `changes`; None: left out."""

    def answer(route: Route) -> None:
        said = {**route.fetch().json(), **changes}
        route.fulfill(json={key: value for key, value in said.items() if value is not None})

    page.route("**/v1/steering/capabilities", answer)
    return Playground(page).open()


def test_a_server_that_only_adds(page: Page) -> None:
    play = offer(page, operations=None, dynamic=None, schedules=["constant"], positions=["all"])
    page.locator("details.use-details summary").click()
    expect(page.get_by_label("Layers", exact=True)).to_be_visible()
    for word in ("Operation", "The stream keeps its norm", "Dynamic"):
        expect(page.get_by_text(word)).to_have_count(0)
    assert page.get_by_label("Schedule").locator("option").count() == 1
    assert page.get_by_label("Tokens", exact=True).locator("option").count() == 2
    play.show("Server")
    expect(page.get_by_text("Sites")).to_be_visible()
    for word in ("Operations", "Dynamic composition"):
        expect(page.get_by_text(word)).to_have_count(0)


def test_operations_have_their_settings(page: Page) -> None:
    play = offer(page, operations=OPERATIONS)
    page.locator("details.use-details summary").click()
    page.get_by_label("Operation").select_option("clamp")
    page.get_by_label("Most", exact=True).fill("2.5")
    page.get_by_label("Measured in").select_option("median_norm")
    page.get_by_label("The stream keeps its norm").check()
    sent = json.loads(play.copied("cheerful 1.5", "JSON"))["steering"]
    assert sent == {
        "vectors": [
            {
                "id": "cheerful", "operation": "clamp", "max": 2.5, "unit": "median_norm",
                "coefficient": 1.5,
            }
        ],
        "keep_norm": True,
    }  # fmt: skip
    # What does not add has no dose before the stream is there.
    expect(page.locator(".use .dose")).to_have_count(0)
    page.get_by_label("Operation").select_option("project")
    expect(page.get_by_label("Most", exact=True)).to_have_count(0)
    play.show("Server")
    expect(page.get_by_text(", ".join(OPERATIONS))).to_be_visible()


def test_a_default_preset_is_turned_off_where_nothing_is_to_be_added(page: Page) -> None:
    default = {"preset": "sunny", "source": "server", "locked": False}
    play = offer(page, default_preset=default)
    assert json.loads(play.copied("Unsteered", "JSON"))["steering"] is None
    play.show("Server")
    expect(page.get_by_text("Default preset")).to_be_visible()


def test_a_key_that_is_bound_to_a_preset_says_so(page: Page) -> None:
    play = offer(page, default_preset={"preset": "sunny", "source": "key", "locked": True})
    expect(page.get_by_text("is steered by the preset sunny")).to_be_visible()
    assert "steering" not in json.loads(play.copied("Unsteered", "JSON"))
