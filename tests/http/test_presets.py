"""Presets and model names on a real server: the same answer as by the field, and named as asked."""

import json
import secrets
from collections.abc import Iterator

import pytest

from tests.support.http.client import Client, chat_body, completion_body

PRESETS = "/v1/steering/presets"


@pytest.fixture
def preset(client: Client, rnd: str) -> Iterator[str]:
    """A preset of this test's own."""
    name = f"preset-{secrets.token_hex(4)}"
    steering = {"vectors": {rnd: 3.0}}
    made = client.http.post(PRESETS, json={"name": name, "steering": steering})
    assert made.status_code == 201, made.text
    yield name
    client.http.delete(f"{PRESETS}/{name}")


def test_a_preset_answers_as_its_field_does(client: Client, rnd: str, preset: str) -> None:
    by_field = client.chat(steering={"vectors": {rnd: 3.0}}).json()
    for model in (f"smollm2:{preset}", f"smollm2:{rnd}@3"):
        by_name = client.chat(model=model).json()
        assert by_name["choices"][0]["message"] == by_field["choices"][0]["message"]
        assert by_name["model"] == model
        receipt = by_name["steering"]
        assert (receipt["source"], receipt["preset"]) == (
            "model",
            preset if preset in model else None,
        )
        assert receipt["vectors"][0]["digest"] == by_field["steering"]["vectors"][0]["digest"]
    assert by_field["steering"]["source"] == "request"
    assert by_field["model"] == "smollm2"


def test_every_route_and_its_streams_say_the_name_that_was_asked_for(
    client: Client, preset: str
) -> None:
    model = f"smollm2:{preset}"
    completion = client.http.post("/v1/completions", json=completion_body(model=model)).json()
    assert (completion["model"], completion["steering"]["preset"]) == (model, preset)
    response = client.http.post(
        "/v1/responses", json={"model": model, "input": "Hello", "max_output_tokens": 4}
    ).json()
    assert (response["model"], response["steering"]["preset"]) == (model, preset)
    body = {**chat_body(model=model), "stream": True}
    streamed = client.http.post("/v1/chat/completions", json=body).text
    lines = [line[6:] for line in streamed.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    assert {chunk["model"] for chunk in chunks} == {model}
    assert any(chunk.get("steering", {}).get("preset") == preset for chunk in chunks)


def test_null_turns_it_off_and_a_field_replaces_it(client: Client, rnd: str, preset: str) -> None:
    off = client.chat(model=f"smollm2:{preset}", steering=None).json()
    assert "steering" not in off
    assert off["choices"][0]["message"]["content"] == client.chat_text()
    own = client.chat(model=f"smollm2:{preset}", steering={"vectors": {rnd: 0.0}}).json()
    assert (own["steering"]["source"], own["steering"]["vectors"][0]["coefficient"]) == (
        "request",
        0,
    )


def test_the_list_of_models_has_it(client: Client, preset: str) -> None:
    cards = {card["id"]: card for card in client.http.get("/v1/models").json()["data"]}
    assert cards[f"smollm2:{preset}"]["parent"] == "smollm2"
    assert cards["smollm2"]["parent"] is None


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_a_name_that_steers_nothing_is_no_answer(client: Client, route: str) -> None:
    body = {**chat_body(), "prompt": "Hello", "model": "smollm2:nobody", "max_tokens": 2}
    body.pop("messages" if route == "/v1/completions" else "prompt")
    answer = client.http.post(route, json=body)
    assert answer.status_code == 404
    assert "smollm2:nobody" in answer.text


def test_a_route_that_cannot_be_steered_does_not_know_a_preset(client: Client, preset: str) -> None:
    body = {**chat_body(), "model": f"smollm2:{preset}", "max_tokens": 2}
    answer = client.http.post("/invocations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
