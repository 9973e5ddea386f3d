"""Every way in steers, or says no; the page that says so is what was seen."""

import json
import time

import pytest

from tests.support.http.client import Client, chat_body, completion_body
from tests.support.http.doors import PAGE, STEERED, STEERS, observe, page, routes

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def seen(client: Client, rnd: str) -> dict[str, dict[str, str]]:
    return observe(client.http, rnd, "smollm2")


def test_each_place_on_each_route(client: Client, seen: dict[str, dict[str, str]]) -> None:
    assert len(routes(client.http)) >= 15
    for path in STEERED:
        assert seen["field `steering`"][path] == STEERS
        assert seen["header `X-Steering`"][path] == STEERS
    for name, by in seen.items():
        # What a place does depends on no more than whether the route steers.
        assert len({result for path, result in by.items() if path in STEERED}) == 1, name
        assert STEERS not in {result for path, result in by.items() if path not in STEERED}, name
        if not name.startswith(("field `steering`", "header `X-Steering`", "field and header")):
            assert STEERS not in by.values(), name


def test_the_page_is_what_was_seen(seen: dict[str, dict[str, str]]) -> None:
    assert PAGE.read_text() == page(seen), (
        "write docs/doors.md again: python -m tests.support.http.doors URL VECTOR"
    )


def test_the_header_names_itself_in_its_errors(client: Client, rnd: str) -> None:
    for value in ("nobody=1", f"{rnd}=1e30", f"{rnd}=1e999"):
        answer = client.http.post(
            "/v1/chat/completions", json=chat_body(), headers={"X-Steering": value}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Steering")


def test_field_and_header_give_the_same_answer(client: Client, rnd: str) -> None:
    by_field = client.chat(steering={"vectors": {rnd: 1.0}}).json()
    by_header = client.http.post(
        "/v1/chat/completions", json=chat_body(), headers={"X-Steering": f"{rnd}=1"}
    ).json()
    assert by_field["choices"] == by_header["choices"]
    assert by_field["steering"] == by_header["steering"]
    assert by_field["steering"]["source"] == "request"


def test_a_body_of_nothing_but_structure_harms_nobody(client: Client) -> None:
    for path, key in (
        ("/v1/responses", "input"),
        ("/v1/chat/completions", "messages"),
        ("/v1/messages", "messages"),
        ("/tokenize", "messages"),
    ):
        for member in (b"[]", b"{}", b"0", b'""', b'{"role":"user","content":[{}]}'):
            for count in (2_000, 300_000):
                body = b'{"model": "smollm2", "max_tokens": 1, "%s": [%s]}' % (
                    key.encode(),
                    b",".join([member] * count),
                )
                answer = client.http.post(path, content=body, headers=JSON)
                assert 400 <= answer.status_code < 500, (path, member, count, answer.text[:300])
    assert client.http.get("/health").status_code == 200


def test_a_long_conversation_is_no_such_body(client: Client) -> None:
    # Too long for the model, which is said by vLLM, behind all of our bounds.
    chat = [{"role": role, "content": "Hi"} for role in ("user", "assistant")] * 3000
    answer = client.http.post("/v1/chat/completions", json={"model": "smollm2", "messages": chat})
    assert "context length" in answer.json()["error"]["message"]
    answer = client.http.post("/v1/completions", json=completion_body([1] * 1_000_000))
    assert "context length" in answer.json()["error"]["message"]


def test_scoring_says_when_nothing_could_have_changed(client: Client, rnd: str) -> None:
    def score(**use: object) -> dict[str, object]:
        body = completion_body(
            "The sky is", echo=True, logprobs=1, max_tokens=0,
            steering={"vectors": [{"id": rnd, "coefficient": 1.0, **use}]},
        )  # fmt: skip
        answer = client.http.post("/v1/completions", json=body).json()
        return {
            "logprobs": answer["choices"][0]["logprobs"]["token_logprobs"],
            **answer["steering"],
        }

    plain = client.http.post(
        "/v1/completions",
        json=completion_body("The sky is", echo=True, logprobs=1, max_tokens=0),
    ).json()["choices"][0]["logprobs"]["token_logprobs"]
    behind, everywhere = score(), score(positions="all")
    assert behind["logprobs"] == plain
    assert "could not change this answer" in str(behind["note"])
    assert everywhere["logprobs"] != plain
    assert "note" not in everywhere


def test_a_dynamic_stream_has_its_receipt_where_it_ends(client: Client, rnd: str) -> None:
    body = chat_body(steering={"vectors": {rnd: 1.0}, "dynamic": {}}, max_tokens=4)
    body["stream_options"] = {"include_usage": True}
    chunks = client.stream("/v1/chat/completions", body)
    assert "steering" not in chunks[0]
    ends = next(c for c in chunks if c["choices"] and c["choices"][0]["finish_reason"])
    receipt = ends["choices"][0]["delta"]["steering"]
    assert len(receipt["dynamic"][rnd]["coefficients"]) == 4
    assert ends["steering"] == receipt == chunks[-1]["steering"]


def test_the_same_error_in_a_stream_and_counted_once(client: Client, rnd: str) -> None:
    use = {"id": rnd, "positions": {"start": 900, "stop": 901}}
    errors = []
    for stream in (False, True):
        before = client.metric("steering_rejections_total")
        answer = client.chat(steering={"vectors": [use]}, stream=stream)
        assert answer.status_code == 400
        errors.append(answer.json())
        assert client.metric("steering_rejections_total") == before + 1
    assert errors[0] == errors[1]


def test_what_a_body_is_read_with_does_not_stop_the_others(client: Client) -> None:
    # Only that it ends: no time is asserted, but 17 s of it were the fault.
    started = time.monotonic()
    body = json.dumps({"model": "smollm2", "input": [[]] * 19_000}).encode()
    assert client.http.post("/v1/responses", content=body, headers=JSON).status_code == 400
    assert time.monotonic() - started < 60
