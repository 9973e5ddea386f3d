"""What anybody says stays text, and a server that goes away is said to be away."""

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from bench.servers import Server
from tests.support.playground.browser import context
from tests.support.playground.page import Playground
from tests.support.playground.proxy import MortalProxy, mortal

PARK = "Tell me about a walk in the park."
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "</textarea><svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{constructor.constructor('document.title=1')()}}",
)


def vector(name: str, text: str) -> dict[str, object]:
    """A vector as a hostile server, or a careless one, might list it."""
    return {
        "id": name, "object": "steering.vector", "digest": f"sha256:{text}", "created_at": 0,
        "updated_at": 0, "description": text, "method": text, "base_model": {"id": text},
        "base_model_matches": False, "fits": True, "misfit": None, "hidden_size": 576,
        "coefficient": 1.0, "layers": [14], "positions": "generation", "safe_range": None,
        "licence": text, "made_at": None, "bytes": 1, "versions": [text],
        "tensors": [{"name": "resid_post.14", "site": "resid_post", "layer": 14, "shape": [576]}],
        "norms": {}, "method_settings": {},
    }  # fmt: skip


def listing(route: Route) -> None:
    data = [vector(f"n{n}-{text}", text) for n, text in enumerate(HOSTILE)]
    route.fulfill(json={"object": "list", "data": data, "last_id": None, "has_more": False})


def streaming(route: Route) -> None:
    part = [{"id": HOSTILE[0], "measure": HOSTILE[1], "tokens": "answer", "values": {"<b>": [1.0]}}]
    chunks = [
        {
            "choices": [{"index": 0, "delta": {"content": text + "\n"}}],
            "steering": {"reads": part},
        }
        for text in HOSTILE
    ]
    gate = {"id": HOSTILE[2], "over": "token", "tokens": 5, "passed_tokens": 1}
    values = {"<b>": [1.0] * len(HOSTILE)}
    receipt = {
        "vectors": [
            {"id": HOSTILE[0], "digest": HOSTILE[1], "site": HOSTILE[2], "layers": [1],
             "coefficient": 1, "positions": "all", "relative_dose": None, "steered_tokens": 1,
             "gate": gate}
        ],
        "reads": [{**part[0], "tokens": HOSTILE[3], "values": values}],
        "dynamic": None, "source": HOSTILE[3], "preset": HOSTILE[4], "note": HOSTILE[0],
    }  # fmt: skip
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "steering": receipt}
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, last]]
    route.fulfill(body="".join([*lines, "data: [DONE]\n\n"]), content_type="text/event-stream")


def test_what_the_model_says_stays_text(page: Page) -> None:
    page.route("**/v1/chat/completions", streaming)
    play = Playground(page).open()
    play.page.get_by_role("textbox", name="Message").fill(HOSTILE[0])
    page.get_by_role("button", name="Send", exact=True).click()
    play.wait()
    for text in HOSTILE:
        expect(play.answer(0).locator(".answer-text")).to_contain_text(text)
    play.answer(1).locator("details.receipt summary").click()
    for text in HOSTILE:
        expect(play.answer(1).locator("details.receipt")).to_contain_text(text)
    play.answer(1).locator(".token").first.hover()
    expect(play.answer(1).locator(".readout").first).to_contain_text(f"{HOSTILE[0]} · <b> 1")
    expect(play.answer(1).locator(".chart-title").first).to_contain_text(HOSTILE[1])
    expect(page.locator(".said-text")).to_have_text(HOSTILE[0])
    nothing_ran(page)


def test_names_and_descriptions_stay_text(page: Page) -> None:
    page.route(re.compile(r"/v1/steering/vectors(\?.*)?$"), listing)
    play = Playground(page).open()
    play.show("Vectors")
    for n, text in enumerate(HOSTILE):
        page.get_by_role("button", name=f"n{n}-{text}").click()
        expect(page.locator(".vector-head h2")).to_have_text(f"n{n}-{text}")
        expect(page.locator(".vector-description")).to_have_text(text)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator(".use-name").last).to_contain_text("n4-")
    nothing_ran(page)


def nothing_ran(page: Page) -> None:
    assert page.title() == "Steersman playground"
    made = page.locator("main img, main script, main iframe, main [onload], main [onerror]")
    expect(made).to_have_count(0)


def test_html_that_somebody_would_make_is_refused_by_the_browser(
    server: Server, browser: Browser
) -> None:
    """Trusted Types: not even a mistake in the page's own code could make HTML of a text."""
    with context(browser, server.url, tolerated="TrustedHTML") as page:
        raised = (
            Playground(page)
            .open()
            .evaluate(
                "(() => { try { document.createElement('p').innerHTML = '<b>x</b>'; return 'made' }"
                " catch (error) { return error.name } })()"
            )
        )
    assert raised == "TypeError"


@pytest.fixture
def proxy(server: Server) -> Iterator[MortalProxy]:
    with mortal(server.url) as made:
        yield made


def test_a_server_that_dies_in_mid_stream(proxy: MortalProxy, browser: Browser) -> None:
    with context(browser, proxy.url) as page:
        play = Playground(page).open()
        play.say(PARK, 1500)
        expect(play.answer(1).locator(".answer-text")).to_have_text(re.compile(".{30}", re.DOTALL))
        proxy.die()
        for column in (0, 1):
            expect(play.answer(column)).to_contain_text("Incomplete")
            alert = play.answer(column).get_by_role("alert")
            expect(alert).to_contain_text("The connection broke before the answer was complete.")
        kept = play.answers()
        assert all(kept)
        # The next call says that nobody is there; what was said stays.
        play.say("And then?", 8)
        expect(page.get_by_text("The server does not answer. This page stays")).to_be_visible()
        assert page.locator("article.turn").first.locator(".answer-text").first.inner_text()
        proxy.live_again()
        expect(page.get_by_text("The server does not answer. This page stays")).to_be_hidden()
        play.answer(1).get_by_role("button", name="Answer again").click()
        play.wait()
        assert play.answers()[1]
