"""Make: a vector of texts with its progress, a sweep with its figure. Server: what goes on."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import FilePayload, expect

from bench.servers import Server
from tests.support.playground.page import Playground


@pytest.fixture
def glad(server: Server) -> Iterator[str]:
    yield "glad"
    httpx.delete(f"{server.url}/v1/steering/vectors/glad?force=true", timeout=60)


def test_a_vector_is_made_and_goes_to_the_sliders(
    play: Playground, server: Server, glad: str
) -> None:
    play.show("Make")
    page = play.page
    page.get_by_role("button", name="Fill in an example").click()
    expect(page.get_by_text("One text on each line · 12 so far")).to_have_count(2)
    page.get_by_role("button", name="Make it").click()
    job = page.get_by_role("region", name="Jobs").get_by_role("listitem").first
    expect(job).to_contain_text("glad")
    expect(job).to_contain_text("Done")
    page.get_by_text("What was read").first.click()
    expect(page.locator(".samples mark").first).to_be_visible()
    page.get_by_role("button", name="Find its coefficient").click()
    assert page.get_by_label("Vector", exact=True).input_value() == glad
    page.get_by_role("button", name="Move its slider: glad").click()
    expect(play.slider(glad)).to_be_visible()
    made = httpx.get(f"{server.url}/v1/steering/vectors/glad").json()
    assert made["method"] == "mean_difference"
    play.show("Vectors")
    page.locator(".vector-item").filter(has_text=glad).click()
    expect(page.get_by_role("heading", name="Quality")).to_be_visible()


def test_a_job_shows_how_far_it_is(play: Playground) -> None:
    job = {
        "id": "job-1", "status": "running", "phase": "capturing", "method": "mean_difference",
        "name": "slow", "created_at": 0, "bad_rows": [], "samples": [], "warnings": [],
        "vectors": [], "error": None,
        "progress": {"done": 24, "total": 40, "rate": 2.0, "eta_s": 8.0},
    }  # fmt: skip
    play.page.route("**/v1/steering/jobs", lambda route: route.fulfill(json={"data": [job]}))
    play.show("Make")
    jobs = play.page.get_by_role("region", name="Jobs")
    expect(jobs).to_contain_text("24 of 40 texts · about 8 s left")
    expect(jobs.get_by_role("progressbar")).to_have_attribute("value", "24")
    expect(jobs.get_by_role("button", name="Cancel the job")).to_be_visible()


def test_a_jsonl_file_does_as_well(play: Playground, glad: str) -> None:
    play.show("Make")
    page = play.page
    page.get_by_label("Name", exact=True).fill(glad)
    page.get_by_label("A JSONL file").check()
    pairs = "\n".join(
        f'{{"positive": "What a lovely day {n}!", "negative": "What a grim day {n}."}}'
        for n in range(6)
    )
    file = FilePayload(name="pairs.jsonl", mimeType="application/jsonl", buffer=pairs.encode())
    page.get_by_label("JSONL file", exact=True).set_input_files(file)
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("button", name="Move its slider: glad")).to_be_visible()


def test_texts_that_cannot_be_used_are_refused_with_the_reason(play: Playground) -> None:
    play.show("Make")
    page = play.page
    page.get_by_label("Name", exact=True).fill("glad")
    page.get_by_label("Texts that show it").fill("one")
    page.get_by_label("Texts that do not").fill("two")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert")).to_be_visible()


def test_a_sweep_draws_its_figure_and_finds_the_range(play: Playground) -> None:
    play.show("Make")
    page = play.page
    page.get_by_label("Vector", exact=True).fill("cheerful")
    page.get_by_label("Coefficients").fill("-8, 1, 2, 12")
    page.get_by_label("Messages").fill("Describe a harbour.\nTell me about a bridge.")
    region = page.get_by_role("region", name="Find a coefficient")
    region.get_by_label("Max tokens").fill("24")
    region.get_by_role("button", name="Sweep").click()
    expect(region.get_by_text("10 of 10 answers")).to_be_visible()
    expect(region.locator("canvas")).to_be_visible()
    rows = region.get_by_role("row")
    expect(rows).to_have_count(6)
    # At twelve times its own coefficient the text is broken; unsteered it is not.
    expect(rows.last.get_by_role("cell").last).to_have_text("no")
    expect(rows.nth(2).get_by_role("cell").first).to_have_text("0")
    expect(rows.nth(2).get_by_role("cell").last).to_have_text("yes")


def test_the_servers_page_shows_what_it_can_and_does(play: Playground) -> None:
    page = play.page
    play.show("Server")
    expect(page.get_by_role("region", name="What it serves")).to_contain_text("smollm2")
    now = page.get_by_role("region", name="Now")
    expect(now).to_contain_text("Ready")
    expect(now).to_contain_text("of 4,096")
    play.show("Compare")
    add = page.get_by_role("combobox", name="Add a vector")
    add.fill("no-such-vector")
    add.press("Enter")
    play.say("Hello.", 4)
    play.wait()
    play.show("Server")
    rejections = page.get_by_role("region", name="Rejections")
    expect(rejections).to_contain_text("vector_not_found")
