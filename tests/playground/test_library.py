"""Vectors: list, search, upload, inspect, rename, delete; and 200 of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from bench.servers import Server
from tests.support.playground.page import Playground
from tests.support.playground.vectors import random_vector

AT_ONCE = 8
DROP = """
(box, [name, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(data)], name));
  for (const kind of ['dragover', 'drop']) {
    box.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: files}));
  }
}
"""


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def names(http: httpx.Client) -> Iterator[list[str]]:
    """Names that a test makes, which are deleted afterwards."""
    made: list[str] = []
    yield made
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: http.delete(f"/v1/steering/vectors/{name}?force=true"), made))


def upload(http: httpx.Client, name: str, seed: int) -> None:
    files = {"file": (f"{name}.safetensors", random_vector(seed))}
    http.post("/v1/steering/vectors", data={"name": name}, files=files).raise_for_status()


def choose(play: Playground, name: str) -> None:
    play.page.locator(".vector-item").filter(has_text=name).first.click()
    expect(play.page.locator(".vector-head h2")).to_have_text(name)


def test_a_vector_is_found_and_its_inside_shown(play: Playground) -> None:
    play.show("Vectors")
    page = play.page
    page.get_by_role("searchbox", name="Search").fill("gloomy and bitter")
    expect(page.locator(".vector-item")).to_have_count(1)
    choose(play, "cheerful")
    inside = page.get_by_role("region", name="Inside")
    expect(inside.locator(".norm.is-default")).to_have_count(2)
    expect(inside.locator(".norm")).to_have_count(13)
    expect(inside.get_by_text("Raised")).to_be_visible()
    expect(inside.locator(".plain-list").last.locator("li")).to_have_count(6)
    page.get_by_role("button", name="Use it").click()
    expect(play.slider("cheerful")).to_have_count(2)


def test_a_dropped_file_is_uploaded_renamed_changed_and_deleted(
    play: Playground, http: httpx.Client, names: list[str]
) -> None:
    names += ["dropped", "renamed"]
    play.show("Vectors")
    page = play.page
    page.get_by_label("Name", exact=True).fill("dropped")
    file = ["mine.safetensors", [*random_vector(5)]]
    page.locator(".drop").evaluate(DROP, file)
    expect(page.get_by_text("dropped is in the library.")).to_be_visible()
    expect(page.locator(".vector-head h2")).to_have_text("dropped")
    page.get_by_role("button", name="Change").click()
    page.get_by_label("Description").fill("made by a test")
    page.get_by_label("Default coefficient").fill("0.5")
    page.get_by_label("Safe range: From").fill("-1")
    page.get_by_label("Safe range: To").fill("1.5")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".vector-description")).to_have_text("made by a test")
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("renamed")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.locator(".vector-head h2")).to_have_text("renamed")
    seen = http.get("/v1/steering/vectors/renamed").json()
    assert (seen["description"], seen["coefficient"]) == ("made by a test", 0.5)
    assert seen["safe_range"] == [-1, 1.5]
    assert http.get("/v1/steering/vectors/dropped").status_code == 404
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".vector-item").filter(has_text="renamed")).to_have_count(0)
    assert http.get("/v1/steering/vectors/renamed").status_code == 404


def test_what_depends_on_a_vector_is_said_before_it_goes(
    play: Playground, http: httpx.Client, names: list[str]
) -> None:
    names.append("leant-on")
    upload(http, "leant-on", 6)
    body = {"name": "leans", "steering": {"vectors": {"leant-on": 1}}}
    http.post("/v1/steering/presets", json=body).raise_for_status()
    try:
        play.page.reload()
        play.show("Vectors")
        choose(play, "leant-on")
        play.page.get_by_role("button", name="Delete").click()
        dialog = play.page.get_by_role("dialog")
        expect(dialog.get_by_role("listitem")).to_have_text(["leans"])
        dialog.get_by_role("button", name="Delete it all the same").click()
        expect(dialog).to_be_hidden()
        assert http.get("/v1/steering/vectors/leant-on").status_code == 404
    finally:
        http.delete("/v1/steering/presets/leans")


def test_a_file_that_is_no_vector_is_refused_with_the_reason(play: Playground) -> None:
    play.show("Vectors")
    page = play.page
    page.locator(".drop").evaluate(DROP, ["broken.safetensors", [1, 2, 3]])
    expect(page.get_by_role("alert")).to_be_visible()
    page.locator(".drop").evaluate(DROP, ["pickle.pt", [1, 2, 3]])
    expect(page.get_by_role("alert")).to_contain_text("steersman vectors import pickle.pt")


def test_a_control_vector_of_another_tool_is_uploaded(
    play: Playground, http: httpx.Client, names: list[str]
) -> None:
    names.append("happy")
    play.show("Vectors")
    file = Path(__file__).parents[2] / "examples" / "happy.gguf"
    play.page.get_by_label("Name", exact=True).fill("happy")
    play.page.locator(".drop input").set_input_files(file)
    expect(play.page.get_by_text("happy is in the library.")).to_be_visible()
    assert http.get("/v1/steering/vectors/happy").json()["fits"]


def test_two_hundred_vectors(play: Playground, http: httpx.Client, names: list[str]) -> None:
    names += [f"many-{n:03}" for n in range(200)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(upload, http), names, range(200)))
    play.page.reload()
    play.show("Vectors")
    page = play.page
    expect(page.get_by_text("207 vectors")).to_be_visible()
    page.get_by_role("searchbox", name="Search").fill("many-19")
    expect(page.locator(".vector-item")).to_have_count(10)
    choose(play, "many-199")
    page.get_by_role("button", name="Use it").click()
    expect(play.slider("many-199")).to_be_visible()
    assert page.locator("datalist option").count() == 207
