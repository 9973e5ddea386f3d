"""Reads over HTTP: in the receipt, on the chunk of their token, and what is refused by its key."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.http.conftest import HIDDEN, NORM
from tests.support.http.client import FRANCE, Client, chat_body

CLOSE = 1e-3
"""Of a cosine, and of a projection as a share of the vector's norm: numbers of two requests, whose
batches differ."""


def reads(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer["steering"]["reads"]
    return found


def test_a_read_alone_changes_nothing_and_says_so(client: Client, rnd: str) -> None:
    field = {
        "read": [{"id": rnd}, {"id": rnd, "layers": [14], "measure": "cosine", "tokens": "prompt"}]
    }
    sent = client.chat(steering=field)
    answer = sent.json()
    assert answer["choices"][0]["message"]["content"] == client.chat_text()
    receipt, usage = answer["steering"], answer["usage"]
    assert receipt["vectors"] == []
    assert "steers nothing" in receipt["note"]
    assert '"reads":2' in sent.headers["Steering-Receipt"]
    projection, cosine = receipt["reads"]
    assert (projection["measure"], projection["tokens"], projection["site"]) == (
        "projection", "answer", "resid_post",
    )  # fmt: skip
    assert {k: len(v) for k, v in projection["values"].items()} == {
        "10": usage["completion_tokens"], "14": usage["completion_tokens"],
    }  # fmt: skip
    assert len(cosine["values"]["14"]) == usage["prompt_tokens"]
    assert all(-1 <= value <= 1 for value in cosine["values"]["14"])
    # The prompt's blocks are in the cache by now, and its values are there all the same.
    again = client.chat(steering=field).json()
    assert reads(again)[1]["values"]["14"] == pytest.approx(cosine["values"]["14"], abs=CLOSE)


def test_what_is_added_is_read(client: Client, rnd: str) -> None:
    """At the layer where it is done, at the same first token."""
    field = {"read": [{"id": rnd, "layers": [10], "tokens": "last"}]}
    (plain,) = reads(client.chat(steering=field).json())
    use = {"id": rnd, "coefficient": 0.5, "layers": [10]}
    answer = client.chat(steering={"vectors": [use], **field}).json()
    (steered,) = reads(answer)
    moved = steered["values"]["10"][0] - plain["values"]["10"][0]
    assert moved == pytest.approx(0.5 * NORM, abs=CLOSE * NORM)
    assert answer["steering"]["vectors"][0]["steered_tokens"] > 0


def test_each_chunk_has_the_values_of_its_tokens(client: Client, rnd: str) -> None:
    field = {
        "vectors": {rnd: 0.5},
        "read": [{"id": rnd, "layers": [14]}, {"id": rnd, "layers": [14], "tokens": "prompt"}],
    }
    body = chat_body(FRANCE, steering=field)
    chunks = client.stream("/v1/chat/completions", body)
    whole = [c["steering"] for c in chunks if "vectors" in c.get("steering", {})][-1]
    parts = [c["steering"]["reads"] for c in chunks if "reads" in c.get("steering", {})]
    parts = [part for part in parts if "digest" not in part[0]]
    assert len(parts) > 3
    answer, prompt = whole["reads"]
    streamed = [value for part in parts for value in part[0]["values"]["14"]]
    # The last tokens come with the receipt.
    assert answer["values"]["14"][: len(streamed)] == streamed
    assert len(answer["values"]["14"]) - len(streamed) <= 2
    assert [len(part) for part in parts] == [2] + [1] * (len(parts) - 1)
    assert parts[0][1]["values"] == prompt["values"]
    assert all("usage" not in chunk for chunk in chunks)


def test_several_answers(client: Client, rnd: str) -> None:
    field = {"read": [{"id": rnd, "layers": [10]}]}
    body = {
        "model": "smollm2", "prompt": ["One two", "Monday Tuesday Wednesday"], "n": 2,
        "max_tokens": 4, "temperature": 0.9, "seed": 3, "ignore_eos": True,
    }  # fmt: skip
    answer = client.http.post("/v1/completions", json={**body, "steering": field}).json()
    (found,) = reads(answer)
    assert [len(one["10"]) for one in found["values"]] == [4] * 4
    # The two answers to a prompt begin from the same stream, those to others do not.
    first = [one["10"][0] for one in found["values"]]
    assert first[0] == pytest.approx(first[1], abs=CLOSE * NORM)
    assert abs(first[0] - first[2]) > CLOSE * NORM


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_the_other_routes(client: Client, rnd: str, path: str) -> None:
    body: dict[str, Any] = {"model": "smollm2", "steering": {"read": [{"id": rnd, "layers": [10]}]}}
    if path == "/v1/responses":
        body |= {"input": FRANCE, "max_output_tokens": 5}
    else:
        body |= {"messages": [{"role": "user", "content": FRANCE}], "max_tokens": 5}
    (found,) = reads(client.http.post(path, json=body).json())
    assert 1 <= len(found["values"]["10"]) <= 5


@pytest.fixture(scope="module")
def others(client: Client) -> None:
    """Vectors that have no one direction a layer."""
    rows = torch.eye(HIDDEN)[:3]
    point, other = HookPoint("resid_post", 10), HookPoint("resid_post", 14)
    for name, tensors in (
        ("read-steps", {point: rows}),
        ("read-nowhere", {point: 0 * rows[0], other: rows[0]}),
    ):
        assert client.upload(write_vector(SteeringVector(tensors)), name).status_code == 201


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("read", "param", "code"),
    [
        ([], "steering.read", None),
        ({"id": "rnd"}, "steering.read", None),
        ([{}], "steering.read[0].id", "missing_field"),
        ([{"id": "rnd"}, {"id": "nobody"}], "steering.read[1].id", "vector_not_found"),
        ([{"id": "rnd", "layers": [11]}], "steering.read[0].layers", "layer_not_in_vector"),
        ([{"id": "rnd", "layers": [30]}], "steering.read[0].layers", "layer_out_of_range"),
        ([{"id": "rnd", "layers": []}], "steering.read[0].layers", None),
        ([{"id": "rnd", "measure": "dot"}], "steering.read[0].measure", None),
        ([{"id": "rnd", "tokens": "all"}], "steering.read[0].tokens", None),
        ([{"id": "rnd", "coefficient": 1}], "steering.read[0].coefficient", "unknown_field"),
        ([{"id": "rnd", "tokens": "prompt"}] * 65, "steering.read", None),
        ([{"id": "read-steps"}], "steering.read[0].id", "not_one_direction"),
        ([{"id": "read-nowhere"}], "steering.read[0].id", "zero_direction"),
    ],
)
@pytest.mark.usefixtures("rnd", "others")
def test_what_cannot_be_read_is_refused_by_its_key(
    client: Client, read: Any, param: str, code: str | None, stream: bool
) -> None:
    answer = client.chat(steering={"read": read}, stream=stream)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert code in (None, error["code"])


@pytest.mark.parametrize("stream", [False, True])
def test_too_many_values_are_refused(
    client: Client, rnd: str, make_vector: Callable[..., bytes], stream: bool
) -> None:
    """Two hook points on sixty-four reads of 1200 tokens."""
    limits = client.http.get("/v1/steering/capabilities").json()["limits"]
    assert limits["max_read_values"] == 65_536
    field = {"read": [{"id": rnd}] * 64}
    answer = client.chat(steering=field, max_tokens=1200, stream=stream)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "steering.read"
    assert answer.json()["error"]["code"] == "too_many_reads"
    assert client.chat(steering=field, max_tokens=2, stream=stream).status_code == 200


def test_a_preset_reads_nothing(client: Client, rnd: str) -> None:
    field = {"vectors": {rnd: 1.0}, "read": [{"id": rnd}]}
    body = {"name": "reader", "steering": field}
    answer = client.http.post("/v1/steering/presets", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "steering.read"
