"""`/v1/messages`, in Anthropic's form: the chat's answer, steered alike, with the receipt."""

import json
from typing import Any

import pytest

from tests.support.http.client import Client, chat_body

PATH = "/v1/messages"
JSON = {"Content-Type": "application/json"}


def events(client: Client, **fields: Any) -> list[dict[str, Any]]:
    text = client.http.post(PATH, json={**chat_body(**fields), "stream": True}).text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def text_of(found: list[dict[str, Any]]) -> str:
    return "".join(one["delta"].get("text", "") for one in found if "delta" in one)


def test_a_message_is_steered_as_the_chat_is(client: Client, rnd: str) -> None:
    plain = client.http.post(PATH, json=chat_body()).json()
    assert plain["content"][0]["text"] == client.chat_text()
    assert "steering" not in plain
    field = {"vectors": {rnd: 3.0}}
    chat = client.chat(steering=field).json()
    answer = client.http.post(PATH, json=chat_body(steering=field))
    message = answer.json()
    assert message["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert message["content"] != plain["content"]
    assert message["steering"] == chat["steering"]
    assert message["steering"]["vectors"][0]["steered_tokens"] == 12
    promise = json.loads(answer.headers["Steering-Receipt"])
    assert promise["vectors"][0]["coefficient"] == 3.0


def test_a_stream_says_it_where_the_message_ends(client: Client, rnd: str) -> None:
    field = {"vectors": {rnd: 3.0}}
    found = events(client, steering=field)
    assert text_of(found) == client.chat_text(steering=field)
    (end,) = [one for one in found if one["type"] == "message_delta"]
    assert end["delta"]["stop_reason"] == "max_tokens"
    assert end["steering"]["vectors"][0]["steered_tokens"] == 12
    assert [one["type"] for one in found if "steering" in one] == ["message_delta"]
    assert found[-1]["type"] == "message_stop"


def test_a_dynamic_message_has_every_coefficient(client: Client, rnd: str) -> None:
    field = {"vectors": {rnd: 1.0}, "dynamic": {"kl": "sum"}}
    whole = client.http.post(PATH, json=chat_body(steering=field)).json()["steering"]
    assert len(whole["dynamic"][rnd]["coefficients"]) == 12
    (end,) = [one for one in events(client, steering=field) if one["type"] == "message_delta"]
    assert end["steering"]["dynamic"] == whole["dynamic"]


def test_header_and_model_name_steer_it(client: Client, rnd: str) -> None:
    wanted = client.chat_text(steering={"vectors": {rnd: 3.0}})
    by_header = client.http.post(PATH, json=chat_body(), headers={"X-Steering": f"{rnd}=3"}).json()
    by_name = client.http.post(PATH, json=chat_body(model=f"smollm2:{rnd}@3")).json()
    assert by_header["content"][0]["text"] == by_name["content"][0]["text"] == wanted
    assert (by_header["steering"]["source"], by_name["steering"]["source"]) == ("request", "model")
    assert by_name["model"] == f"smollm2:{rnd}@3"
    start = events(client, model=f"smollm2:{rnd}@3")[0]
    assert start["message"]["model"] == f"smollm2:{rnd}@3"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("steering", "param"),
    [
        ({"vectors": {"nobody": 1}}, "steering.vectors[0].id"),
        ({"vectors": {"rnd": 1e9}}, "steering.vectors[0].coefficient"),
        ({"vectors": [{"id": "rnd", "positions": {"start": 900, "stop": 901}}]},
         "steering.positions"),
        ({"vectors": {"rnd": 1}, "colour": 1}, "steering.colour"),
    ],
)  # fmt: skip
def test_errors_wear_anthropics_wrapper(
    client: Client, rnd: str, steering: Any, param: str, stream: bool
) -> None:
    answer = client.http.post(PATH, json=chat_body(steering=steering, stream=stream))
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["param"] == param


def test_the_system_prompt_and_tools_are_not_lost(client: Client, rnd: str) -> None:
    more: dict[str, Any] = {
        "system": "You are terse.",
        "tools": [{"name": "t", "input_schema": {"type": "object", "properties": {}}}],
        "stop_sequences": ["."],
    }
    plain = client.http.post(PATH, json=chat_body(**more)).json()
    zero = client.http.post(PATH, json=chat_body(steering={"vectors": {rnd: 0.0}}, **more)).json()
    assert zero["content"] == plain["content"]
    assert zero["usage"] == plain["usage"]
