"""Where a default preset steers requests that do not say how: what is to be plain says so."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from bench.servers import Server, running, steersman
from steersman.vectors.demo.make import fill_library
from tests.support.playground.browser import context
from tests.support.playground.page import Playground
from tests.support.server import keys

PARK = "Tell me about a walk in the park."
OPTIONS = shlex.split(
    "--served-model-name smollm2 --max-model-len 1024 --kv-cache-memory-bytes 268435456 "
    "--default-preset sunny"
)
GENERATES = ("/v1/chat/completions", "/v1/completions")


@pytest.fixture(scope="module")
def defaulting(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a default preset, a key that is free, and one that is bound to a preset."""
    folder = tmp_path_factory.mktemp("defaulting")
    bound = keys.entry("kiosk", "infer", preset="stern", locked=True)
    keys.write(folder / "keys.yaml", keys.entry("free"), bound)
    fill_library(model, folder / "library", print)
    ours = ["--library", str(folder / "library"), "--api-keys-file", str(folder / "keys.yaml")]
    command = steersman(str(model), [*OPTIONS, *ours])
    with running("defaulting", command, {"STEERSMAN_HOME": str(folder)}, folder / "log") as started:
        yield started


@pytest.fixture
def page(defaulting: Server, browser: Browser) -> Iterator[Page]:
    with context(browser, defaulting.url) as made:
        made.goto("/playground")
        yield made


def enter(page: Page, key: str) -> Playground:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    return Playground(page)


def calls(page: Page) -> list[tuple[dict[str, Any], Response]]:
    """What the page sends to the model from now on, and what comes back."""
    found: list[tuple[dict[str, Any], Response]] = []

    def keep(response: Response) -> None:
        if response.url.endswith(GENERATES):
            found.append((response.request.post_data_json or {}, response))

    page.on("response", keep)
    return found


def test_the_plain_column_is_plain(page: Page) -> None:
    play = enter(page, "free")
    expect(play.slider("cheerful")).to_be_visible()
    made = calls(page)
    play.say(PARK, 12)
    play.wait()
    plain, steered = play.answers()
    assert plain != steered
    bodies = [body for body, _ in made]
    assert [body["steering"] for body in bodies] == [None, {"vectors": {"cheerful": 1.5}}]
    assert "steering-receipt" not in made[0][1].headers
    expect(play.answer(0).locator("details.receipt")).to_have_count(0)
    assert json.loads(play.copied("Unsteered", "JSON"))["steering"] is None
    assert '"steering": None' in play.copied("Unsteered", "Python")


def test_a_sweep_answers_and_scores_without_the_default(page: Page) -> None:
    play = enter(page, "free")
    made = calls(page)
    play.show("Make")
    page.get_by_label("Vector", exact=True).fill("cheerful")
    page.get_by_label("Coefficients").fill("1")
    page.get_by_label("Messages").fill("Describe a harbour.")
    region = page.get_by_role("region", name="Find a coefficient")
    region.get_by_label("Max tokens").fill("12")
    region.get_by_role("button", name="Sweep").click()
    expect(region.get_by_text("2 of 2 answers")).to_be_visible()
    said = [(response.url.rsplit("/v1/")[1], body["steering"]) for body, response in made]
    swept = {"vectors": {"cheerful": 1}}
    assert sorted(said, key=str) == [
        ("chat/completions", None),
        ("chat/completions", swept),
        ("completions", None),
        ("completions", None),
    ]
    for body, response in made:
        receipt = response.json().get("steering")
        assert (receipt is None) == (body["steering"] is None)


def test_a_preset_says_how_it_becomes_the_default(page: Page) -> None:
    play = enter(page, "free")
    presets = page.get_by_label("Preset", exact=True)
    expect(presets.get_by_role("option", name="sunny (default)")).to_have_count(1)
    expect(page.get_by_role("button", name="As default")).to_have_count(0)
    presets.select_option("stern")
    page.get_by_role("button", name="As default").click()
    dialog = page.get_by_role("dialog", name="stern as default")
    expect(dialog).to_contain_text("sunny is the server's default now.")
    for text in ("--default-preset stern", "preset: stern", "smollm2:stern"):
        expect(dialog.get_by_text(text, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    presets.select_option("sunny")
    page.get_by_role("button", name="As default").click()
    expect(page.get_by_role("dialog")).to_contain_text("It is the server's default")
    page.keyboard.press("Escape")
    assert play.copied("Preset sunny", "Model id") == "smollm2:sunny"


def test_a_key_that_is_bound_has_no_controls_and_is_not_refused(page: Page) -> None:
    play = enter(page, "kiosk")
    expect(page.get_by_text("is steered by the preset stern")).to_be_visible()
    for name in ("Add a vector", "Read along…"):
        expect(page.get_by_role("combobox", name=name)).to_have_count(0)
    expect(page.get_by_role("slider")).to_have_count(0)
    play.say(PARK, 8)
    play.wait()
    for column in (0, 1):
        receipt = play.answer(column).locator("details.receipt")
        receipt.locator("summary").click()
        expect(receipt).to_contain_text("Preset stern")
    assert "steering" not in json.loads(play.copied("Preset stern (1)", "JSON"))
    play.show("Make")
    expect(page.get_by_role("region", name="Find a coefficient")).to_have_count(0)
