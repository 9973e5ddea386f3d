"""Dynamic composition: a chart of what was found for each token, and tinted text."""

import re

from playwright.sync_api import expect

from tests.support.playground.page import Playground

PARK = "Tell me about a walk in the park."


def start(play: Playground, tokens: int = 24) -> None:
    add = play.page.get_by_role("combobox", name="Add a vector")
    add.fill("formal")
    add.press("Enter")
    play.page.get_by_role("checkbox", name="Dynamic").check()
    play.say(PARK, tokens)


def test_each_token_has_its_coefficient_in_text_and_chart(play: Playground) -> None:
    start(play)
    play.wait()
    answer = play.answer(1)
    tokens = answer.locator(".token")
    assert tokens.count() >= 20
    tints = tokens.evaluate_all("all => all.map(one => one.style.getPropertyValue('--tint'))")
    assert len(set(tints)) > 1
    expect(answer.locator("canvas")).to_be_visible()
    drawn = answer.locator("canvas").evaluate(
        "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
        ".data.some(value => value > 0)"
    )
    assert drawn
    # Pointing at a token shows its numbers, and its place in the chart.
    tokens.nth(5).hover()
    readout = answer.locator(".readout")
    expect(readout).to_contain_text(re.compile(r"Token \d+ .*cheerful .* · formal "))
    assert answer.locator(".u-cursor-x").is_visible()
    expect(play.answer(0).locator(".token")).to_have_count(0)


def test_the_chart_points_at_the_text_by_mouse_and_by_keys(play: Playground) -> None:
    start(play)
    play.wait()
    answer = play.answer(1)
    chart = answer.locator(".chart-box")
    chart.focus()
    for _ in range(3):
        chart.press("ArrowRight")
    expect(answer.locator(".readout")).to_contain_text("Token 3 ")
    expect(answer.locator(".token.is-pointed")).to_have_count(1)
    box = answer.locator(".u-over").bounding_box()
    assert box is not None
    play.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    expect(answer.locator(".readout")).not_to_contain_text("Token 3 ")
    expect(answer.locator(".token.is-pointed")).to_have_count(1)


def test_the_tint_can_be_by_another_property(play: Playground) -> None:
    start(play)
    play.wait()
    answer = play.answer(1)
    token = answer.locator(".token").first
    expect(token).to_have_attribute("data-series", "0")
    answer.get_by_role("button", name="formal").click()
    expect(token).to_have_attribute("data-series", "1")
