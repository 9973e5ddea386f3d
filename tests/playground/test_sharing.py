"""Copy as, links, and presets."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from bench.servers import Server
from tests.support.playground.browser import context
from tests.support.playground.page import Playground

PARK = "Tell me about a walk in the park."
HARD = 'It\'s "quoted", $HOME, `back`, \\ and ünïcode\nin two lines'


def test_curl_that_is_copied_runs_and_steers(play: Playground) -> None:
    play.page.get_by_label("Max tokens").fill("6")
    play.page.get_by_role("textbox", name="Message").fill(HARD)
    command = play.copied("cheerful 1.5", "curl")
    done = subprocess.run(["bash", "-c", command + " --silent"], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["steering"]["vectors"][0]["coefficient"] == 1.5
    assert json.loads(play.copied("cheerful 1.5", "JSON"))["messages"][-1]["content"] == HARD


def test_python_that_is_copied_runs_and_steers(play: Playground, tmp_path: Path) -> None:
    play.page.get_by_label("Max tokens").fill("6")
    play.page.get_by_role("textbox", name="Message").fill(HARD)
    script = tmp_path / "copied.py"
    script.write_text(play.copied("cheerful 1.5", "Python"))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'coefficient': 1.5" in done.stdout


def test_the_model_id_steers(play: Playground, server: Server) -> None:
    name = play.copied("cheerful 1.5", "Model id")
    assert name == "smollm2:cheerful@1.5"
    body = {"model": name, "messages": [{"role": "user", "content": PARK}], "max_tokens": 4}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["steering"]["source"] == "model"
    assert play.copied("Unsteered", "Model id") == "smollm2"


def test_a_link_brings_the_whole_state_and_sends_none_of_it(
    play: Playground, server: Server, browser: Browser
) -> None:
    play.set_slider("cheerful", -1.25)
    play.page.get_by_text("Layers 14, 16").click()
    play.page.get_by_label("Layers", exact=True).fill("12-14")
    play.page.get_by_label("Tokens", exact=True).select_option("all")
    play.page.get_by_label("Schedule").select_option("diminishing")
    play.page.get_by_label("Over this many tokens").fill("30")
    play.page.get_by_label("Seed").fill("11")
    play.say(PARK, 8)
    play.wait()
    play.page.get_by_role("textbox", name="Message").fill("And then?")
    link = play.copied("cheerful −1.25", "Link")
    want = play.copied("cheerful −1.25", "JSON")
    with context(browser, server.url) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(link)
        other = Playground(page)
        expect(page.locator(".said-text")).to_have_text(PARK)
        assert page.get_by_role("textbox", name="Message").input_value() == "And then?"
        page.get_by_role("button", name="Answer all").click()
        other.wait()
        assert play.answers() == other.answers()
        assert other.copied("cheerful −1.25", "JSON") == want
        assert all("#" not in url and "state=" not in url for url in asked if url != link)


@pytest.mark.parametrize(
    "state",
    ["", "not base64!", "e30", "eyJ2IjoxLCJjb2x1bW5zIjpbMSwibiJdLCJzYWlkIjo1fQ", "A" * 300_000],
)
def test_a_link_that_is_damaged_opens_a_fresh_page(play: Playground, state: str) -> None:
    page = Playground(play.page).open(f"#state={state}")
    expect(page.page.get_by_role("textbox", name="Message")).to_be_visible()
    page.say(PARK, 4)
    page.wait()
    assert len(page.answers()) == 2


def test_a_preset_is_saved_loaded_and_used_by_its_name(play: Playground, server: Server) -> None:
    play.set_slider("cheerful", 1.75)
    play.page.get_by_role("button", name="Save as preset").click()
    play.page.get_by_label("Name of the preset").fill("breezy")
    play.page.get_by_role("button", name="Save as preset").click()
    expect(play.page.get_by_role("button", name="Preset breezy", exact=True)).to_be_visible()
    saved = httpx.get(f"{server.url}/v1/steering/presets/breezy").json()
    assert saved["steering"]["vectors"] == [{"id": "cheerful", "coefficient": 1.75}]
    assert play.copied("Preset breezy", "Model id") == "smollm2:breezy"
    play.say(PARK, 8)
    play.wait()
    play.answer(1).locator("details.receipt summary").click()
    expect(play.answer(1)).to_contain_text("Preset breezy")
    # What is changed is no longer the preset, until it is loaded again.
    play.set_slider("cheerful", 0.5)
    expect(play.page.get_by_role("button", name="cheerful 0.5", exact=True)).to_be_visible()
    play.page.get_by_label("Preset", exact=True).select_option("breezy")
    assert play.slider("cheerful").input_value() == "1.75"
    httpx.delete(f"{server.url}/v1/steering/presets/breezy").raise_for_status()
