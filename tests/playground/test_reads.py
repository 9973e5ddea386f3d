"""Reads: how far the stream goes along a vector, token by token, in text, chart and receipt."""

import json
import re

import pytest
from playwright.sync_api import Browser, expect

from bench.servers import Server
from tests.support.playground.axe import grave_findings
from tests.support.playground.browser import context
from tests.support.playground.page import Playground

PARK = "Tell me about a walk in the park."


def read_along(play: Playground, vector: str, measure: str, tokens: str = "answer") -> None:
    """Read along one more vector in the selected column."""
    panel = play.page.locator("details.reads")
    add = panel.get_by_role("combobox", name="Read along…")
    if not add.is_visible():
        panel.locator("summary").click()
    add.fill(vector)
    add.press("Enter")
    row = panel.get_by_role("group", name=f"Read: {vector}").last
    row.get_by_label("Measure").select_option(measure)
    row.get_by_label("Read at").select_option(tokens)


def test_each_token_has_what_was_read_in_text_chart_and_receipt(play: Playground) -> None:
    page = play.page
    page.get_by_role("button", name="Unsteered", exact=True).click()
    play.say(PARK, 12)
    play.wait()
    plain = play.answers()[0]
    read_along(play, "cheerful", "cosine")
    answer = play.answer(0)
    expect(answer.locator(".chart-title")).to_have_text("Cosine by token")
    expect(answer.locator("details.receipt")).to_be_visible()
    expect(answer.locator("canvas")).to_be_visible()
    play.wait()
    # Reading changes nothing.
    assert play.answers()[0] == plain
    tokens = answer.locator(".token")
    tints = tokens.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(tints)) > 2
    tokens.nth(3).hover()
    readout = answer.locator(".readout")
    expect(readout).to_contain_text(re.compile(r"Token \d+ “.*” cheerful · layer 14 −?[0-9.]+ · "))
    chart = answer.locator(".chart-box")
    chart.focus()
    chart.press("ArrowRight")
    expect(answer.locator(".token.is-pointed")).to_have_count(1)
    receipt = answer.locator("details.receipt")
    expect(receipt.locator("summary")).to_contain_text("24 values read")
    receipt.locator("summary").click()
    rows = receipt.get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("cheerful")
    expect(rows.nth(1).get_by_role("cell").nth(1)).to_have_text("14")
    expect(rows.nth(1).get_by_role("cell").last).to_have_text("12")
    expect(play.answer(1).locator(".token")).to_have_count(0)
    # Another line tints the text.
    series = tokens.first.get_attribute("data-series")
    answer.get_by_role("button", name="cheerful · layer 16").click()
    expect(tokens.first).not_to_have_attribute("data-series", series or "")
    assert grave_findings(play) == []


def test_steering_moves_what_is_read(play: Playground) -> None:
    """At the layers where a vector is added, the stream goes further along it."""
    page = play.page
    read_along(play, "cheerful", "projection", "last")
    page.get_by_role("button", name="Add a column").click()
    play.set_slider("cheerful", -1.5)
    play.say(PARK, 4)
    play.wait()
    means = []
    for column in (1, 2):
        receipt = play.answer(column).locator("details.receipt")
        receipt.locator("summary").click()
        cell = receipt.get_by_role("region", name="Read along").get_by_role("row").nth(1)
        text = cell.get_by_role("cell").nth(3).inner_text()
        means.append(float(text.replace("−", "-").replace(",", "")))
        # One number is no chart.
        expect(play.answer(column).locator("canvas")).to_have_count(0)
    assert means[0] > means[1] + 10


def test_the_prompt_has_a_chart_of_its_own(play: Playground) -> None:
    read_along(play, "formal", "projection", "prompt")
    play.say(PARK, 6)
    play.wait()
    answer = play.answer(1)
    expect(answer.locator("canvas")).to_be_visible()
    expect(answer.get_by_text("Projection by token of the prompt")).to_be_visible()
    expect(answer.locator(".token")).to_have_count(0)


def test_beside_dynamic_composition_both_are_drawn(play: Playground) -> None:
    play.page.get_by_role("checkbox", name="Dynamic").check()
    read_along(play, "formal", "cosine")
    play.say(PARK, 12)
    play.wait()
    answer = play.answer(1)
    expect(answer.locator("canvas")).to_have_count(2)
    answer.locator(".token").nth(3).hover()
    expect(answer.locator(".readout").first).to_contain_text("divergence")
    expect(answer.locator(".readout").last).to_contain_text("formal · layer")
    expect(answer.locator(".token").first).to_have_attribute("data-series", "0")
    answer.get_by_role("button", name=re.compile("^formal · layer")).first.click()
    expect(answer.locator(".token").first).to_have_attribute("data-series", "7")


def test_reads_go_with_links_and_copies_and_into_no_preset(
    play: Playground, server: Server, browser: Browser
) -> None:
    read_along(play, "formal", "cosine", "prompt")
    play.page.locator("fieldset.read").get_by_label("Layers").fill("14")
    want = {
        "vectors": {"cheerful": 1.5},
        "read": [{"id": "formal", "layers": [14], "measure": "cosine", "tokens": "prompt"}],
    }
    assert json.loads(play.copied("cheerful 1.5", "JSON"))["steering"] == want
    assert '"read": [' in play.copied("cheerful 1.5", "Python")
    assert '"read": [' in play.copied("cheerful 1.5", "curl")
    assert "cannot ask for what is read" in play.hint("cheerful 1.5", "Model id")
    with context(browser, server.url) as page:
        page.goto(play.copied("cheerful 1.5", "Link"))
        other = Playground(page)
        assert json.loads(other.copied("cheerful 1.5", "JSON"))["steering"] == want
        expect(page.get_by_role("group", name="Read: formal")).to_be_visible()
    # Without vectors the field has what is read alone.
    play.page.get_by_role("button", name="Remove cheerful", exact=True).click()
    assert list(json.loads(play.copied("Unsteered (2)", "JSON"))["steering"]) == ["read"]


@pytest.mark.parametrize("tokens", ["answer", "last"])
def test_a_vector_that_is_not_there_is_refused_with_the_reason(
    play: Playground, tokens: str
) -> None:
    read_along(play, "nobody", "cosine", tokens)
    play.say(PARK, 4)
    play.wait()
    expect(play.answer(1).get_by_role("alert")).to_contain_text("steering.read[0].id")
