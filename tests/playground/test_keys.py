"""Behind keys: the page's files are open, what it calls is not."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from bench.servers import Server, running, steersman
from steersman.vectors.demo.make import fill_library
from tests.support.playground.browser import context
from tests.support.playground.page import Playground
from tests.support.server.keys import bearer, one_each

OPTIONS = shlex.split(
    "--served-model-name smollm2 --max-model-len 1024 --kv-cache-memory-bytes 268435456"
)


@pytest.fixture(scope="module")
def locked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key for each scope."""
    folder = tmp_path_factory.mktemp("locked")
    one_each(folder / "keys.yaml")
    fill_library(model, folder / "library", print)
    ours = ["--library", str(folder / "library"), "--api-keys-file", str(folder / "keys.yaml")]
    command = steersman(str(model), [*OPTIONS, *ours])
    with running("locked", command, {"STEERSMAN_HOME": str(folder)}, folder / "log") as started:
        yield started


@pytest.fixture
def page(locked: Server, browser: Browser) -> Iterator[Page]:
    with context(browser, locked.url) as made:
        made.goto("/playground")
        yield made


def give(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_the_page_asks_for_a_key_and_then_works(page: Page, locked: Server) -> None:
    assert httpx.get(f"{locked.url}/v1/steering/capabilities").status_code == 401
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    give(page, "no-such-key")
    expect(page.get_by_text("The server does not know this key.")).to_be_visible()
    give(page, key_of("admin"))
    play = Playground(page)
    expect(play.slider("cheerful")).to_be_visible()
    play.say("Hello.", 6)
    play.wait()
    assert all(play.answers())
    assert "$STEERSMAN_API_KEY" in play.copied("Unsteered", "curl")


def test_the_key_is_in_memory_and_in_no_address(page: Page) -> None:
    key = key_of("admin")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    give(page, key)
    play = Playground(page)
    expect(play.slider("cheerful")).to_be_visible()
    assert key not in play.copied("Unsteered", "Link")
    assert all(key not in url for url in asked)
    stored = play.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}]) + document.cookie"
    )
    assert key not in stored
    page.reload()
    expect(page.get_by_role("heading", name="API key")).to_be_visible()


def test_the_key_stays_in_the_tab_if_that_is_wanted(page: Page) -> None:
    page.get_by_label("Keep it in this tab until the tab is closed").check()
    give(page, key_of("admin"))
    play = Playground(page)
    expect(play.slider("cheerful")).to_be_visible()
    page.reload()
    expect(play.slider("cheerful")).to_be_visible()
    page.get_by_role("button", name=re.compile("Key is set")).click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    assert key_of("admin") not in play.evaluate("JSON.stringify({...sessionStorage})")


def test_a_key_that_may_only_infer_can_name_vectors(page: Page) -> None:
    give(page, key_of("infer"))
    play = Playground(page)
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    add = page.get_by_role("combobox", name="Add a vector")
    add.fill("cheerful")
    add.press("Enter")
    play.say("Hello.", 6)
    play.wait()
    expect(play.answer(1).locator("details.receipt")).to_be_visible()
    play.show("Server")
    expect(page.get_by_text("it needs the scope metrics")).to_be_visible()
    play.show("Vectors")
    expect(page.get_by_role("alert")).to_contain_text("vectors:read")


def key_of(scope: str) -> str:
    """The key with a scope, of those in `one_each`."""
    return bearer(scope)["Authorization"].removeprefix("Bearer ")
