"""Compare: one message, two columns, sliders."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.support.playground.page import Playground

PARK = "Tell me about a walk in the park."


def test_two_columns_answer_one_message_side_by_side(play: Playground) -> None:
    play.say(PARK)
    play.wait()
    plain, steered = play.answers()
    assert plain
    assert steered
    assert plain != steered
    boxes = [play.answer(n).bounding_box() for n in (0, 1)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]


def test_with_the_same_seed_an_answer_comes_again(play: Playground) -> None:
    play.say(PARK)
    play.wait()
    first = play.answers()
    play.answer(0).get_by_role("button", name="Answer again").click()
    play.wait()
    assert play.answers() == first


def test_a_slider_makes_its_column_answer_again_and_no_other(play: Playground) -> None:
    play.say(PARK)
    play.wait()
    plain, steered = play.answers()
    slider = play.slider("cheerful")
    slider.focus()
    for _ in range(60):
        slider.press("ArrowLeft")
    expect(play.answer(1).locator(".answer-text")).not_to_have_text(steered)
    play.wait()
    again, moved = play.answers()
    assert again == plain
    assert moved != steered
    play.set_slider("cheerful", 0)
    # Both now say the same: nothing is added.
    expect(play.answer(1).locator(".answer-text")).to_have_text(plain)


def test_the_track_shows_the_safe_range_and_what_lies_beyond(play: Playground) -> None:
    slider = play.slider("cheerful")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("inside the safe range"))
    assert float(slider.get_attribute("max") or 0) > 2
    play.set_slider("cheerful", 2.5)
    expect(slider).to_have_attribute("aria-valuetext", re.compile("outside the safe range"))
    expect(play.page.get_by_text("Outside the safe range: the text may break")).to_be_visible()


def test_the_dose_is_shown_before_anything_is_sent_and_the_receipt_agrees(play: Playground) -> None:
    play.set_slider("cheerful", 1.5)
    shown = play.page.locator(".use .dose-value").inner_text()
    play.say(PARK, 8)
    play.wait()
    receipt = play.answer(1).locator("details.receipt")
    receipt.locator("summary").click()
    row = receipt.get_by_role("row").nth(1)
    expect(row).to_contain_text("cheerful")
    expect(row).to_contain_text("1.5")
    assert row.get_by_role("cell").nth(3).inner_text() == shown == "0.309"
    expect(row.get_by_role("cell").nth(4)).to_have_text("8")
    expect(play.answer(0).locator("details.receipt")).to_have_count(0)


def test_doses_of_several_vectors_are_summed(play: Playground) -> None:
    play.set_slider("cheerful", 1)
    add = play.page.get_by_role("combobox", name="Add a vector")
    add.fill("formal")
    add.press("Enter")
    expect(play.slider("formal")).to_be_visible()
    doses = play.page.locator(".use .dose-value")
    # Numbers, once the server has said how long the vectors are.
    expect(doses).to_have_text([re.compile(r"^[0-9.]+$")] * 2)
    each = [float(doses.nth(n).inner_text()) for n in range(2)]
    total = play.page.locator(".dose.total .dose-value").inner_text()
    assert float(total) == pytest.approx(sum(each), abs=0.002)


def test_stop_keeps_what_has_come(play: Playground) -> None:
    play.say(PARK, 1500)
    expect(play.answer(1).locator(".answer-text")).to_have_text(re.compile(".{40}"))
    play.page.get_by_role("button", name="Stop").click()
    play.wait()
    expect(play.answer(0)).to_contain_text("Stopped")
    expect(play.answer(1)).to_contain_text("Stopped")
    assert all(play.answers())


def test_an_edited_message_is_answered_anew_and_what_followed_goes(play: Playground) -> None:
    play.say(PARK, 8)
    play.wait()
    play.say("And in the rain?", 8)
    play.wait()
    turns = play.page.locator("article.turn")
    expect(turns).to_have_count(2)
    turns.first.get_by_role("button", name="Edit").click()
    play.page.get_by_role("textbox", name="Edited message").fill("Describe a harbour.")
    play.page.get_by_role("button", name="Send again").click()
    play.wait()
    expect(turns).to_have_count(1)
    expect(turns.first.locator(".said-text")).to_have_text("Describe a harbour.")
    assert all(play.answers())


def test_a_second_message_brings_the_first_ones_answers_along(play: Playground) -> None:
    play.say(PARK, 8)
    play.wait()
    said = play.answers()
    play.page.get_by_role("textbox", name="Message").fill("And in the rain?")
    for column, title in enumerate(("Unsteered", "cheerful 1.5")):
        body = json.loads(play.copied(title, "JSON"))
        assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
        assert body["messages"][1]["content"] == said[column]


def test_a_third_column_has_a_mix_of_its_own(play: Playground) -> None:
    play.page.get_by_role("button", name="Add a column").click()
    play.set_slider("cheerful", -1.5)
    play.say(PARK)
    play.wait()
    texts = play.answers()
    assert len(texts) == len(set(texts)) == 3
    play.page.get_by_role("button", name="Remove cheerful −1.5").click()
    assert len(play.answers()) == 2


def test_what_the_server_refuses_is_shown_with_its_reason(play: Playground) -> None:
    add = play.page.get_by_role("combobox", name="Add a vector")
    add.fill("no-such-vector")
    add.press("Enter")
    play.say(PARK, 8)
    play.wait()
    alert = play.answer(1).get_by_role("alert")
    expect(alert).to_contain_text("no-such-vector")
    expect(alert).to_contain_text("steering.vectors")
    assert play.answers()[0]
