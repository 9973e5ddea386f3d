"""What a server does not offer, the page does not hint at; what it offers has its controls."""

import json
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.support.playground.page import Playground

ON = "Only where something is so"
OPERATIONS = ["add", "project", "clamp", "replace"]


def offer(page: Page, fragment: str = "", **changes: Any) -> Playground:
    """The playground of a server whose capabilities have these `changes`; None: left out."""

    def answer(route: Route) -> None:
        said = {**route.fetch().json(), **changes}
        route.fulfill(json={key: value for key, value in said.items() if value is not None})

    page.route("**/v1/steering/capabilities", answer)
    return Playground(page).open(fragment)


def test_a_server_that_only_adds(page: Page) -> None:
    none: dict[str, Any] = {"operations": None, "dynamic": None, "gates": None, "reads": None}
    play = offer(page, **none, schedules=["constant"], positions=["all"])
    page.locator("details.use-details summary").click()
    expect(page.get_by_label("Layers", exact=True)).to_be_visible()
    for word in ("Operation", "The stream keeps its norm", "Dynamic", ON, "Read along"):
        expect(page.get_by_text(word)).to_have_count(0)
    assert page.get_by_label("Schedule").locator("option").count() == 1
    assert page.get_by_label("Tokens", exact=True).locator("option").count() == 2
    play.show("Server")
    expect(page.get_by_text("Sites")).to_be_visible()
    for word in ("Operations", "Dynamic composition", "Gates", "Reads"):
        expect(page.get_by_text(word)).to_have_count(0)


def test_only_what_a_server_takes_can_be_chosen(page: Page) -> None:
    gates = {"measures": ["projection"], "over": ["token"], "max_gates": 1}
    reads = {"sites": ["resid_post"], "measures": ["cosine"], "tokens": ["last"]}
    offer(page, gates=gates, reads=reads, positions=["generation", "answer_range"])
    page.locator("details.use-details > summary").click()
    tokens = page.get_by_label("Tokens", exact=True).locator("option")
    assert [one.get_attribute("value") for one in tokens.all()] == [
        "", "generation", "answer_range",
    ]  # fmt: skip
    page.get_by_label(ON).check()
    assert page.get_by_label("Measure", exact=True).locator("option").count() == 1
    assert page.get_by_label("Decided").locator("option").count() == 1
    page.locator("details.reads > summary").click()
    add = page.get_by_role("combobox", name="Read along…")
    add.fill("formal")
    add.press("Enter")
    read = page.get_by_role("group", name="Read: formal")
    for label in ("Measure", "Read at"):
        assert read.get_by_label(label).locator("option").count() == 1
    # The second gate is one more than the server takes.
    add = page.get_by_role("combobox", name="Add a vector")
    add.fill("formal")
    add.press("Enter")
    page.locator("details.use-details > summary").last.click()
    expect(page.get_by_label(ON).last).to_be_disabled()
    expect(page.get_by_text("At most 1 vectors have a gate")).to_be_visible()


def test_a_vector_that_was_made_for_a_gate_brings_its_settings(page: Page) -> None:
    found = {"layer": 9, "measure": "cast", "above": 0.125, "over": "prompt_mean"}

    def made(route: Route) -> None:
        said = route.fetch().json()
        route.fulfill(json={**said, "method_settings": {"gate": found}})

    page.route("**/v1/steering/vectors/cheerful", made)
    play = offer(page)
    page.locator("details.use-details > summary").click()
    page.get_by_label(ON).check()
    page.get_by_role("button", name="As it was made: above 0.125 at layer 9").click()
    sent = json.loads(play.copied("cheerful 1.5", "JSON"))["steering"]["vectors"][0]
    assert sent["gate"] == {"id": "cheerful", **found}


def test_what_a_link_brings_and_a_server_does_not_serve_is_named(play: Playground) -> None:
    play.page.locator("details.use-details > summary").click()
    play.page.get_by_label(ON).check()
    play.page.locator("details.reads > summary").click()
    add = play.page.get_by_role("combobox", name="Read along…")
    add.fill("formal")
    add.press("Enter")
    link = play.copied("cheerful 1.5", "Link").split("#")[1]
    play.page.goto("about:blank")
    other = offer(play.page, fragment=f"#{link}", gates=None, reads=None)
    other.page.locator("details.use-details > summary").click()
    for named in ("gate", "read"):
        expect(play.page.get_by_text(f"Also sent as it is: {named}", exact=True)).to_be_visible()
    for word in (ON, "Read along"):
        expect(play.page.get_by_text(word)).to_have_count(0)


def test_operations_have_their_settings(page: Page) -> None:
    play = offer(page, operations=OPERATIONS)
    page.locator("details.use-details summary").click()
    page.get_by_label("Operation").select_option("clamp")
    page.get_by_label("Most", exact=True).fill("2.5")
    page.get_by_label("Measured in").select_option("median_norm")
    page.get_by_label("The stream keeps its norm").check()
    # The vector's own coefficient, and its safe range, are those of its own operation.
    sent = json.loads(play.copied("Clamp: cheerful 1", "JSON"))["steering"]
    expect(play.slider("cheerful")).to_have_attribute("aria-valuetext", "1, no safe range is known")
    assert sent == {
        "vectors": [
            {
                "id": "cheerful", "operation": "clamp", "max": 2.5, "unit": "median_norm",
                "coefficient": 1,
            }
        ],
        "keep_norm": True,
    }  # fmt: skip
    # What does not add has no dose before the stream is there.
    expect(page.locator(".use .dose")).to_have_count(0)
    page.get_by_label("Operation").select_option("project")
    expect(page.get_by_label("Most", exact=True)).to_have_count(0)
    page.get_by_label("Operation").select_option("replace")
    vectors = json.loads(play.copied("Replace: cheerful 1", "JSON"))["steering"]["vectors"]
    assert vectors[0]["positions"] == "generation"
    play.show("Server")
    expect(page.get_by_text(", ".join(OPERATIONS))).to_be_visible()


def test_a_default_preset_is_turned_off_where_nothing_is_to_be_added(page: Page) -> None:
    default = {"preset": "sunny", "source": "server", "locked": False}
    play = offer(page, default_preset=default)
    assert json.loads(play.copied("Unsteered", "JSON"))["steering"] is None
    play.show("Server")
    expect(page.get_by_text("Default preset")).to_be_visible()
