"""Dynamic composition and schedules as a client sees them."""

import json
import time
from typing import Any

import pytest
import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.http.conftest import HIDDEN, NORM
from tests.support.http.client import FRANCE, Client, chat_body, completion_body

DYNAMIC = {"start": 0.6, "max": 0.6, "top_p": 0.9, "kl": "sum"}


@pytest.fixture(scope="module")
def two(client: Client, make_vector: Any) -> dict[str, Any]:
    """A dynamic `steering` of two properties."""
    for n in (1, 2):
        assert client.upload(make_vector(500 + n), f"p{n}").status_code in (200, 201)
    return {"vectors": [{"id": "p1"}, {"id": "p2", "coefficient": 0.3}], "dynamic": DYNAMIC}


def check_trace(trace: dict[str, Any], tokens: int) -> None:
    assert set(trace) == {"p1", "p2"}
    for name, cap in (("p1", 0.6), ("p2", 0.3)):
        coefficients, divergences = trace[name]["coefficients"], trace[name]["divergences"]
        assert len(coefficients) == len(divergences) == tokens
        for c, d in zip(coefficients, divergences, strict=True):
            assert c == pytest.approx(min(max(d, 0), cap))


def test_the_receipt_has_every_token(client: Client, two: dict[str, Any]) -> None:
    answer = client.chat(steering=two, max_tokens=10, ignore_eos=True).json()
    receipt = answer["steering"]
    check_trace(receipt["dynamic"], 10)
    assert [v["coefficient"] for v in receipt["vectors"]] == pytest.approx([0.6, 0.3])
    assert [v["steered_tokens"] for v in receipt["vectors"]] == [10, 10]
    assert len(set(receipt["dynamic"]["p1"]["coefficients"])) > 3


@pytest.mark.parametrize("usage", [None, {"include_usage": True}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_each_chunk_has_its_own_part(
    client: Client, two: dict[str, Any], path: str, usage: dict[str, bool] | None
) -> None:
    make = chat_body if "chat" in path else completion_body
    body = make(FRANCE, steering=two, max_tokens=12, ignore_eos=True, stream_options=usage)
    whole = client.http.post(path, json={**body, "stream_options": None}).json()["steering"]
    chunks = client.stream(path, body)
    assert [bool(c.get("usage")) for c in chunks] == [False] * (len(chunks) - 1) + [bool(usage)]
    last = chunks[-1]
    assert last["steering"] == whole
    # Where the choice ends, the whole takes the place of a part.
    ends = next(c for c in chunks if c["choices"] and c["choices"][0]["finish_reason"])
    assert ends["steering"] == whole
    said = [c["steering"] for c in chunks if "steering" in c]
    parts = [receipt["dynamic"] for receipt in said if "vectors" not in receipt]
    told = [value for part in parts for value in part["p1"]["coefficients"]]
    assert 9 <= len(told) < 13
    assert told == whole["dynamic"]["p1"]["coefficients"][: len(told)]
    # A chunk says what its tokens were steered with, and nothing where it has none.
    assert all(part["p1"]["coefficients"] for part in parts)
    for chunk in chunks:
        for choice in chunk["choices"]:
            text = choice.get("text") or choice.get("delta", {}).get("content")
            assert bool(text) <= ("steering" in chunk)


def test_several_answers(client: Client, two: dict[str, Any]) -> None:
    body = chat_body(steering=two, n=2, temperature=1.0, seed=5, max_tokens=6, ignore_eos=True)
    receipt = client.http.post("/v1/chat/completions", json=body).json()["steering"]
    assert len(receipt["dynamic"]) == 2
    for trace in receipt["dynamic"]:
        check_trace(trace, 6)
    assert [v["steered_tokens"] for v in receipt["vectors"]] == [12, 12]
    one, other = (trace["p1"]["divergences"] for trace in receipt["dynamic"])
    assert one[0] == pytest.approx(other[0], abs=1e-4)
    assert one != other


def test_a_response(client: Client, two: dict[str, Any]) -> None:
    body = {"model": "smollm2", "input": FRANCE, "temperature": 0, "max_output_tokens": 8}
    answer = client.http.post("/v1/responses", json={**body, "steering": two})
    assert answer.status_code == 200, answer.text
    receipt = answer.json()["steering"]
    check_trace(receipt["dynamic"], answer.json()["usage"]["output_tokens"])
    ended = client.stream("/v1/responses", {**body, "steering": two})[-1]
    assert ended["response"]["steering"]["dynamic"] == receipt["dynamic"]


def test_a_client_that_hangs_up_takes_its_streams_along(
    client: Client, two: dict[str, Any]
) -> None:
    idle = client.metric("steering_companion_streams")
    body = chat_body(steering=two, max_tokens=1500, ignore_eos=True, stream=True)
    with client.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
        for _ in range(4):
            next(lines)
        assert client.metric("steering_companion_streams") == idle + 3
        assert client.metric("vllm:num_requests_running") >= 4
    deadline = time.monotonic() + 30
    while client.metric("vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        client.chat(max_tokens=1)
    assert client.metric("steering_companion_streams") == idle


def test_what_does_not_fit_is_refused(client: Client, two: dict[str, Any]) -> None:
    many = {**two, "vectors": [{"id": "p1"}] * 4}
    fits = client.chat(steering=many, max_tokens=2)
    assert fits.status_code == 200
    assert set(fits.json()["steering"]["dynamic"]) == {"p1", "p1#2", "p1#3", "p1#4"}


def test_schedules(client: Client, rnd: str) -> None:
    """What the engine does with them is tested there; here, that the words mean what they say."""

    def steered(**steering: Any) -> tuple[str, dict[str, Any]]:
        body = chat_body(steering={"vectors": {rnd: 1.5}, **steering}, ignore_eos=True)
        answer = client.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        data = answer.json()
        return data["choices"][0]["message"]["content"], data["steering"]["vectors"][0]

    constant, receipt = steered(schedule="constant")
    assert (constant, receipt["steered_tokens"]) == (steered()[0], 12)
    start, receipt = steered(schedule="start")
    assert (receipt["steered_tokens"], receipt["schedule"]) == (1, "start")
    one = client.chat(steering={"vectors": [{"id": rnd, "schedule": [1.5]}]}, ignore_eos=True)
    assert one.json()["choices"][0]["message"]["content"] == start
    _, receipt = steered(schedule="diminishing", over=5)
    assert (receipt["steered_tokens"], receipt["over"]) == (5, 5)
    held = {"id": rnd, "schedule": [1.5, 1.5], "after": "hold"}
    answer = client.chat(steering={"vectors": [held]}, ignore_eos=True).json()
    assert answer["choices"][0]["message"]["content"] == constant
    assert answer["steering"]["vectors"][0]["steered_tokens"] == 12


def test_a_vector_with_a_tensor_for_each_step(client: Client) -> None:
    steps = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(4))
    steps *= NORM / steps.norm(dim=1, keepdim=True)
    vector = write_vector(SteeringVector({HookPoint("resid_post", 12): steps}))
    assert client.upload(vector, "stepped").status_code in (200, 201)
    ends = client.chat(steering={"vectors": {"stepped": 1.0}}, ignore_eos=True).json()["steering"]
    assert (ends["vectors"][0]["steered_tokens"], ends["vectors"][0]["steps"]) == (3, 3)
    holds = client.chat(
        steering={"vectors": {"stepped": 1.0}, "after": "hold"}, ignore_eos=True
    ).json()["steering"]
    assert holds["vectors"][0]["steered_tokens"] == 12
    composed = client.chat(
        steering={"vectors": [{"id": "stepped"}], "dynamic": DYNAMIC}, ignore_eos=True
    ).json()["steering"]
    assert len(composed["dynamic"]["stepped"]["coefficients"]) == 12
    assert composed["vectors"][0]["steered_tokens"] == 3


def test_capabilities(client: Client) -> None:
    found = client.http.get("/v1/steering/capabilities").json()
    text = json.dumps(found)
    assert "dynamic" in text
    assert found["limits"]["max_dynamic_requests"] == 8
