"""When a vector acts: gates, markers and ranges, on the page and in what it sends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, expect

from bench.servers import Server
from tests.support.playground.browser import context
from tests.support.playground.page import Playground

PARK = "Tell me about a walk in the park."
ON = "Only where something is so"


def open_details(play: Playground) -> None:
    play.page.locator("details.use-details > summary").click()


def gate(play: Playground, **changes: str) -> None:
    """Give the first vector a gate, and make its settings those of `changes`."""
    open_details(play)
    play.page.get_by_label(ON).check()
    settings = play.page.locator("fieldset.gate")
    for label, value in changes.items():
        name = label.replace("_", " ")
        if name in ("Measured with", "Threshold"):
            settings.get_by_label(name, exact=True).fill(value)
            settings.get_by_label(name, exact=True).press("Tab")
        else:
            settings.get_by_label(name, exact=True).select_option(value)


def use(play: Playground, column: str = "cheerful 1.5") -> dict[str, Any]:
    """The first vector of what a column sends."""
    found: dict[str, Any] = json.loads(play.copied(column, "JSON"))["steering"]["vectors"][0]
    return found


def gate_line(play: Playground) -> str:
    """What the second column's receipt says of the gate."""
    receipt = play.answer(1).locator("details.receipt")
    receipt.locator("summary").click()
    return receipt.locator(".receipt-gate").inner_text()


def test_a_gate_that_does_not_pass_leaves_the_answer_as_it_is(play: Playground) -> None:
    gate(play, Measured_with="formal", Measure="cosine", Passes="above", Threshold="1")
    sent = use(play)["gate"]
    assert sent.pop("layer") <= 14
    assert sent == {"id": "formal", "measure": "cosine", "above": 1, "over": "token"}
    play.say(PARK, 12)
    play.wait()
    plain, gated = play.answers()
    assert gated == plain
    assert gate_line(play) == "Gate formal: passed at 0 of 12 tokens"


def test_a_gate_that_passes_steers_and_is_decided_once_over_the_prompt(play: Playground) -> None:
    play.say(PARK, 12)
    play.wait()
    plain, steered = play.answers()
    assert steered != plain
    play.page.get_by_label("Answer again when a slider has moved").uncheck()
    gate(play, Threshold="-1", Decided="prompt_mean")
    assert use(play)["gate"]["over"] == "prompt_mean"
    expect(play.page.locator("details.use-details > summary")).to_contain_text(
        "where cheerful is above −1"
    )
    play.answer(1).get_by_role("button", name="Answer again").click()
    expect(play.answer(1).locator(".receipt-gate")).to_have_count(1)
    play.wait()
    # What is steered at every token is what it was without a gate.
    assert play.answers() == [plain, steered]
    assert gate_line(play).startswith("Gate cheerful: passed, at ")


def test_a_gate_goes_with_links_copies_and_presets(
    play: Playground, server: Server, browser: Browser, tmp_path: Path
) -> None:
    gate(play, Passes="below", Threshold="0.25")
    play.page.get_by_label("Max tokens").fill("6")
    want = use(play)
    assert want["gate"]["below"] == 0.25
    script = tmp_path / "copied.py"
    script.write_text(play.copied("cheerful 1.5", "Python"))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'below': 0.25" in done.stdout
    assert "a model id of its own" in play.hint("cheerful 1.5", "Model id")
    with context(browser, server.url) as page:
        page.goto(play.copied("cheerful 1.5", "Link"))
        assert use(Playground(page)) == want
    play.page.get_by_role("button", name="Save as preset").click()
    play.page.get_by_label("Name of the preset").fill("gated")
    play.page.get_by_role("button", name="Save as preset").click()
    expect(play.page.get_by_role("button", name="Preset gated", exact=True)).to_be_visible()
    saved = httpx.get(f"{server.url}/v1/steering/presets/gated").json()
    assert saved["steering"]["vectors"] == [want]
    httpx.delete(f"{server.url}/v1/steering/presets/gated").raise_for_status()


def test_gates_and_reads_by_keyboard_alone(play: Playground) -> None:
    page = play.page
    page.locator("details.use-details > summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label(ON).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.type("formal")
    page.keyboard.press("Tab")
    page.locator("details.reads > summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("space")
    page.keyboard.press("Enter")
    field = json.loads(play.copied("cheerful 1.5", "JSON"))["steering"]
    assert field["read"] == [{"id": "space", "measure": "projection", "tokens": "answer"}]
    assert field["vectors"][0]["gate"]["id"] == "formal"


def test_steering_begins_at_a_marker(play: Playground) -> None:
    open_details(play)
    tokens = play.page.get_by_label("Tokens", exact=True)
    tokens.select_option("after")
    expect(play.page.get_by_text("until then, its own tokens are steered")).to_be_visible()
    # Nothing is sent before there is a marker.
    assert json.loads(play.copied("cheerful 1.5", "JSON"))["steering"] == {
        "vectors": {"cheerful": 1.5}
    }
    marker = play.page.get_by_label("Marker", exact=True)
    marker.fill(".")
    marker.press("Tab")
    assert use(play)["positions"] == {"after": "."}
    play.say("Count to five", 8)
    play.wait()
    receipt = play.answer(1).locator("details.receipt")
    expect(receipt).to_be_visible()
    tokens.select_option("until")
    marker.fill("[12, 34]")
    marker.press("Tab")
    assert use(play)["positions"] == {"until": [12, 34]}


def test_a_marker_of_several_tokens_is_refused_with_the_reason(play: Playground) -> None:
    open_details(play)
    play.page.get_by_label("Tokens", exact=True).select_option("after")
    marker = play.page.get_by_label("Marker", exact=True)
    marker.fill("once upon a time")
    marker.press("Tab")
    play.say(PARK, 4)
    play.wait()
    alert = play.answer(1).get_by_role("alert")
    expect(alert).to_contain_text("tokens of this model and not one")
    expect(alert).to_contain_text("steering.vectors[0].positions.after")


def test_ranges_are_steered_as_they_are_written(play: Playground) -> None:
    open_details(play)
    tokens = play.page.get_by_label("Tokens", exact=True)
    tokens.select_option("answer_range")
    play.page.get_by_label("From", exact=True).fill("2")
    play.page.get_by_label("To", exact=True).fill("5")
    assert use(play)["positions"] == {"start": 2, "stop": 5, "of": "answer"}
    play.say(PARK, 8)
    play.wait()
    expect(play.answer(1).locator("details.receipt summary")).to_contain_text("3 tokens steered")
    play.page.get_by_label("To", exact=True).fill("")
    assert use(play)["positions"] == {"start": 2, "of": "answer"}
    tokens.select_option("range")
    assert use(play)["positions"] == {"start": 0, "stop": 40}
    play.wait()
    expect(play.answer(1).get_by_role("alert")).to_have_count(0)
