"""Gates over HTTP: what a gate decides is in the receipt, what is wrong is refused by its key."""

from typing import Any

import pytest
import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.support.http.client import Client

HIDDEN = 576
POINTS = HookPoint("resid_post", 6), HookPoint("resid_post", 20)


@pytest.fixture(scope="module")
def told(client: Client) -> str:
    """A vector that gates measure with, before the steered blocks and behind them."""
    generator = torch.Generator().manual_seed(9)
    vector = SteeringVector({one: torch.randn(HIDDEN, generator=generator) for one in POINTS})
    assert client.upload(write_vector(vector), "told").status_code == 201
    return "told"


def gate(told: str, **changes: Any) -> dict[str, Any]:
    return {"id": told, "layer": 6, "measure": "projection", "above": -1e6} | changes


def test_the_server_says_what_gates_take(client: Client) -> None:
    found = client.http.get("/v1/steering/capabilities").json()["gates"]
    assert found["measures"] == ["projection", "cosine", "cast"]


@pytest.mark.parametrize("over", ["token", "prompt_last", "prompt_mean"])
def test_a_gate_passes_or_the_answer_is_the_unsteered_one(
    client: Client, rnd: str, told: str, over: str
) -> None:
    def asked(**changes: Any) -> Any:
        use = {"id": rnd, "coefficient": 2, "gate": gate(told, over=over, **changes)}
        return client.chat(steering={"vectors": [use]}).json()

    steered, plain = asked(), asked(above=1e6)
    always = client.chat(steering={"vectors": {rnd: 2.0}}).json()
    text = always["choices"][0]["message"]["content"]
    assert steered["choices"][0]["message"]["content"] == text != client.chat_text()
    assert plain["choices"][0]["message"]["content"] == client.chat_text()
    for answer, passed in ((steered, True), (plain, False)):
        (used,) = answer["steering"]["vectors"]
        tokens = answer["usage"]["completion_tokens"]
        assert used["steered_tokens"] == used["gate"]["passed_tokens"] == passed * tokens
        assert used["gate"]["tokens"] == tokens
        assert used["gate"].get("passed") == (None if over == "token" else passed)


def test_several_answers(client: Client, rnd: str, told: str) -> None:
    use = {"id": rnd, "gate": gate(told, over="prompt_last")}
    answer = client.chat(steering={"vectors": [use]}, n=2, temperature=0.8).json()
    found = answer["steering"]["vectors"][0]["gate"]
    assert found["passed"] == [True, True]
    assert found["value"][0] == found["value"][1] != 0
    assert found["tokens"] == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("changes", "use", "param"),
    [
        ({"below": 1}, {}, "gate"),
        ({"measure": "size"}, {}, "gate.measure"),
        ({"id": "nobody"}, {}, "gate.id"),
        ({"layer": 7}, {}, "gate.layer"),
        ({"layer": 20}, {}, "gate.layer"),
        ({"over": "prompt_mean"}, {"positions": "all"}, "positions"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(
    client: Client, rnd: str, told: str, changes: dict[str, Any], use: dict[str, Any], param: str
) -> None:
    field = {"vectors": [{"id": rnd, "gate": gate(told, **changes)} | use]}
    answer = client.chat(steering=field)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"steering.vectors[0].{param}"


def test_positions_after_a_marker(client: Client, rnd: str) -> None:
    """A chat's prompt begins with this marker, and has it again for each message."""

    def asked(positions: Any) -> Any:
        return client.chat(steering={"vectors": [{"id": rnd, "positions": positions}]})

    after, everywhere = asked({"after": "<|im_start|>"}).json(), asked("all").json()
    assert after["choices"][0]["message"] == everywhere["choices"][0]["message"]
    (used,) = after["steering"]["vectors"]
    assert used["positions"] == {"after": "<|im_start|>"}
    tokens = after["usage"]["prompt_tokens"] + after["usage"]["completion_tokens"] - 1
    cached = after["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert used["steered_tokens"] == tokens - cached
    nowhere = asked({"until": "<|im_start|>"}).json()
    assert nowhere["choices"][0]["message"]["content"] == client.chat_text()
    assert nowhere["steering"]["vectors"][0]["steered_tokens"] == 0
    refused = asked({"after": "two of them"})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "steering.vectors[0].positions.after"
    assert error["code"] == "not_one_token"
