"""The `steering` field on every route that takes it: what comes back, and what the receipt says."""

import math
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.servers import Server
from tests.support.http.client import Client, chat_body, completion_body
from tests.support.install import HOSTILE


def test_an_unsteered_answer_is_stock_vllms(client: Client, rnd: str) -> None:
    answer = client.chat().json()
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert "steering" not in answer
    assert "kv_transfer_params" not in answer or answer["kv_transfer_params"] is None


def test_a_steered_answer_differs_and_has_a_receipt(client: Client, rnd: str) -> None:
    vector = client.http.get(f"/v1/steering/vectors/{rnd}").json()
    answer = client.chat(steering={"vectors": [{"id": rnd, "coefficient": 3.0}]}).json()
    assert answer["choices"][0]["message"]["content"] != "The capital of France is Paris."
    (used,) = answer["steering"]["vectors"]
    assert answer["steering"]["dynamic"] is None
    assert used["id"] == rnd
    assert used["digest"] == vector["digest"]
    assert used["site"] == "resid_post"
    assert used["layers"] == [10, 14]
    assert used["coefficient"] == 3.0
    assert used["positions"] == "generation"
    # The last prompt token and all new ones but the last: as many as were generated.
    assert used["steered_tokens"] == answer["usage"]["completion_tokens"]


def test_the_server_steers_in_a_folder_with_modules_named_like_ours(
    server: Server, client: Client, rnd: str
) -> None:
    cwd = Path(psutil.Process(server.pid).cwd())
    assert cwd.joinpath("server.py").read_text() == HOSTILE
    answer = client.chat(steering={"vectors": {rnd: 3.0}}).json()
    assert answer["steering"]["vectors"][0]["steered_tokens"] == 12
    assert answer["choices"][0]["message"]["content"] != client.chat_text()


def test_relative_dose_is_the_norm_over_the_streams_median(client: Client, rnd: str) -> None:
    medians = client.http.get("/v1/steering/capabilities").json()["median_norms"]
    answer = client.chat(steering={"vectors": {rnd: -2.0}}).json()
    doses = answer["steering"]["vectors"][0]["relative_dose"]
    for layer in ("10", "14"):
        expected = 2.0 * 60.0 / medians[f"resid_post.{layer}"]
        assert math.isclose(doses[layer], expected, rel_tol=1e-3)


@pytest.mark.parametrize(
    "field",
    [
        {"vectors": {"rnd": 3.0}},
        {"vectors": [{"id": "rnd", "scale": 3.0}]},
        {
            "vectors": [
                {"id": "rnd", "coefficient": 3, "layers": [10, 14], "positions": "generation"}
            ]
        },
        {"vectors": [{"id": "rnd", "coefficient": 1}, {"id": "rnd", "coefficient": 2}]},
        {"vectors": {"rnd": 3.0}, "dynamic": None},
    ],
)
def test_ways_of_saying_the_same(client: Client, rnd: str, field: dict[str, object]) -> None:
    long_form = {"vectors": [{"id": rnd, "coefficient": 3.0}]}
    assert client.chat_text(steering=field) == client.chat_text(steering=long_form)


def test_a_digest_pins_a_version(client: Client, rnd: str) -> None:
    digest = client.http.get(f"/v1/steering/vectors/{rnd}").json()["digest"]
    pinned = f"{rnd}@{digest.removeprefix('sha256:')[:12]}"
    answer = client.chat(steering={"vectors": {pinned: 3.0}}).json()
    assert answer["steering"]["vectors"][0]["digest"] == digest
    assert client.chat(steering={"vectors": {f"{rnd}@000000000000": 3.0}}).status_code == 400


@pytest.mark.parametrize("usage", [False, True])
def test_a_streams_last_chunk_has_the_receipt(client: Client, rnd: str, usage: bool) -> None:
    steering = {"vectors": {rnd: 3.0}}
    whole = client.chat(steering=steering).json()
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = client.stream("/v1/chat/completions", chat_body(steering=steering, **options))
    # The chunk in which its choice ends has it, and the last one.
    ends = [any(x["finish_reason"] for x in c["choices"]) for c in chunks]
    assert [("steering" in c) for c in chunks] == [*ends[:-1], True]
    assert all(c["steering"] == whole["steering"] for c in chunks if "steering" in c)
    text = "".join(x["delta"].get("content") or "" for c in chunks for x in c["choices"])
    assert text == whole["choices"][0]["message"]["content"]


def test_completions(client: Client, rnd: str) -> None:
    body = completion_body(steering={"vectors": [{"id": rnd, "positions": "all"}]})
    whole = client.http.post("/v1/completions", json=body).json()
    usage = whole["usage"]
    expected = usage["prompt_tokens"] + usage["completion_tokens"] - 1
    assert whole["steering"]["vectors"][0]["steered_tokens"] == expected
    chunks = client.stream("/v1/completions", body)
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["steering"]["vectors"][0]["id"] == rnd


def test_several_prompts_and_answers_add_up(client: Client, rnd: str) -> None:
    body = completion_body(["The sky is", "My cat"], n=2, temperature=1.0, seed=3)
    answer = client.http.post("/v1/completions", json={**body, "steering": {"vectors": {rnd: 1.0}}})
    tokens = answer.json()["usage"]["completion_tokens"]
    assert len(answer.json()["choices"]) == 4
    assert answer.json()["steering"]["vectors"][0]["steered_tokens"] == tokens


def test_stop_strings_end_the_count(client: Client, rnd: str) -> None:
    answer = client.chat(n=3, temperature=1.0, stop=["e"], steering={"vectors": {rnd: 1.0}}).json()
    tokens = answer["usage"]["completion_tokens"]
    assert answer["steering"]["vectors"][0]["steered_tokens"] == tokens


def test_responses(client: Client, rnd: str) -> None:
    body = {
        "model": "smollm2",
        "input": "What is the capital of France?",
        "temperature": 0,
        "max_output_tokens": 8,
        "steering": {"vectors": {rnd: 3.0}},
    }
    whole = client.http.post("/v1/responses", json=body).json()
    assert whole["steering"]["vectors"][0]["steered_tokens"] == 8
    events = client.stream("/v1/responses", body)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["steering"] == whole["steering"]
    assert events[-1]["response"]["output"][0]["content"] == whole["output"][0]["content"]


def test_a_batch_of_chats(client: Client, rnd: str) -> None:
    chats = [[{"role": "user", "content": text}] for text in ("Hello", "What is a fish?")]
    body = {**chat_body(steering={"vectors": {rnd: 3.0}}), "messages": chats}
    answer = client.http.post("/v1/chat/completions/batch", json=body).json()
    alone = client.chat_text("What is a fish?", steering={"vectors": {rnd: 3.0}})
    assert answer["choices"][1]["message"]["content"] == alone
    tokens = answer["usage"]["completion_tokens"]
    assert answer["steering"]["vectors"][0]["steered_tokens"] == tokens


def test_logprobs_tools_and_structured_output_keep_working(client: Client, rnd: str) -> None:
    steering = {"vectors": {rnd: 0.5}}
    answer = client.chat(steering=steering, logprobs=True, top_logprobs=2).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    choice = client.chat_text(steering=steering, structured_outputs={"choice": ["red", "blue"]})
    assert choice in ("red", "blue")
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"unit": {"type": "string", "enum": ["C", "F"]}},
                "required": ["unit"],
            },
        },
    }
    call = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat(steering=steering, tools=[tool], tool_choice=call, max_tokens=200).json()
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert answer["steering"]["vectors"][0]["steered_tokens"] > 0


def test_the_openapi_document_shows_the_field(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path in ("chat/completions", "completions", "responses", "chat/completions/batch"):
        operation = document["paths"][f"/v1/{path}"]["post"]
        model = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        properties = schemas[model.rpartition("/")[2]]["properties"]
        assert {"$ref": "#/components/schemas/SteeringField"} in properties["steering"]["anyOf"]
    strength = {"coefficient", "schedule", "over", "after", "dynamic"}
    does = {"operation", "min", "max", "unit", "value", "multiply", "angle", "adaptive"}
    assert set(schemas["VectorUse"]["properties"]) == {
        "id",
        "data",
        "layers",
        "positions",
        "gate",
        "scale",
        *strength,
        *does,
    }
