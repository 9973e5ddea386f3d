"""Every bad request gets its documented error, and nobody else notices."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest

from tests.support.http.client import Client, chat_body

BAD: list[tuple[Any, int, str]] = [
    ({"vectors": {"nobody": 1.0}}, 400, "steering.vectors[0].id"),
    ({"vectors": {"rnd": 1.0}, "strength": 2}, 400, "steering.strength"),
    ({"vectors": [{"id": "rnd", "weight": 1}]}, 400, "steering.vectors[0].weight"),
    ({"vectors": {"rnd": "1.5"}}, 400, "steering.vectors[0].coefficient"),
    ({"vectors": {"rnd": True}}, 400, "steering.vectors[0].coefficient"),
    ({"vectors": {"rnd": 1e30}}, 400, "steering.vectors[0].coefficient"),
    ({"vectors": {"rnd": 1e6}}, 400, "steering.vectors[0].coefficient"),
    ({"vectors": {"rnd": 100.0}}, 400, "steering.vectors[0].coefficient"),
    ({"vectors": [{"id": "rnd", "layers": [30]}]}, 400, "steering.vectors[0].layers"),
    ({"vectors": [{"id": "rnd", "layers": [-1]}]}, 400, "steering.vectors[0].layers"),
    ({"vectors": [{"id": "rnd", "layers": [11]}]}, 400, "steering.vectors[0].layers"),
    ({"vectors": [{"id": "rnd", "layers": []}]}, 400, "steering.vectors[0].layers"),
    ({"vectors": []}, 400, "steering.vectors"),
    ({"vectors": {}}, 400, "steering.vectors"),
    ({}, 400, "steering.vectors"),
    ("cheerful", 400, "steering"),
    ({"vectors": [{"id": "rnd"}] * 200}, 400, "steering.vectors"),
    ({"vectors": [{"id": "rnd"}] * 9}, 400, "steering.vectors"),
    ({"vectors": [{"id": "rnd", "positions": "some"}]}, 400, "steering.vectors[0].positions"),
    (
        {"vectors": [{"id": "rnd", "positions": {"start": 900, "stop": 901}}]},
        400,
        "steering.positions",
    ),
    ({"vectors": [{"id": "rnd", "positions": {"start": 2, "stop": 2}}]}, 400, "steering.positions"),
    ({"vectors": {"a/b": 1.0}}, 400, "steering.vectors[0].id"),
    ({"vectors": {"..": 1.0}}, 400, "steering.vectors[0].id"),
    ({"vectors": {"rnd@": 1.0}}, 400, "steering.vectors[0].id"),
    ({"vectors": {"fröhlich": 1.0}}, 400, "steering.vectors[0].id"),
    ({"vectors": {"x" * 500: 1.0}}, 400, "steering.vectors[0].id"),
    ({"vectors": {"rnd": 1.0}, "dynamic": {"begin": 2.0}}, 400, "steering.dynamic.begin"),
    ({"vectors": {"rnd": 1.0}, "dynamic": {"start": -2.0}}, 400, "steering.dynamic.start"),
    ({"vectors": {"rnd": 1.0}, "dynamic": {"top_p": 0}}, 400, "steering.dynamic.top_p"),
    ({"vectors": {"rnd": 1.0}, "dynamic": {"kl": "max"}}, 400, "steering.dynamic.kl"),
    ({"vectors": {"rnd": -1.0}, "dynamic": {}}, 400, "steering.vectors[0].coefficient"),
    ({"vectors": [{"id": "rnd"}] * 9, "dynamic": {}}, 400, "steering.vectors"),
    (
        {"vectors": [{"id": "rnd", "positions": "all"}], "dynamic": {}},
        400,
        "steering.vectors[0].positions",
    ),
    ({"vectors": {"rnd": 1.0}, "schedule": "slow"}, 400, "steering.schedule"),
    ({"vectors": {"rnd": 1.0}, "schedule": "diminishing"}, 400, "steering.over"),
    ({"vectors": {"rnd": 1.0}, "schedule": "start", "dynamic": {}}, 400, "steering.schedule"),
    ({"vectors": {"rnd": 1.0}, "after": "hold"}, 400, "steering.after"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("field", "status", "param"), BAD)
def test_the_error_names_the_key(
    client: Client, rnd: str, field: Any, status: int, param: str, stream: bool
) -> None:
    answer = client.chat(steering=field, stream=stream)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert isinstance(error["code"], str)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 10


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_coefficient_that_is_no_finite_number(client: Client, rnd: str, number: str) -> None:
    text = json.dumps(chat_body(steering={"vectors": {rnd: "NUMBER"}}))
    answer = client.http.post(
        "/v1/chat/completions",
        content=text.replace('"NUMBER"', number),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "steering.vectors[0].coefficient"


def test_a_body_that_is_not_json(client: Client) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        answer = client.http.post(
            path, content=b"{not json", headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_ways_that_steering_would_not_reach(client: Client, rnd: str) -> None:
    steering = {"vectors": {rnd: 1.0}}
    answer = client.chat(steering=steering, use_beam_search=True, n=2)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "use_beam_search")
    body = {"model": "smollm2", "input": "Hi", "background": True, "steering": steering}
    answer = client.http.post("/v1/responses", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "background")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_plan_written_by_a_client_meets_the_same_limits(client: Client, path: str) -> None:
    plan = {
        "vectors": [
            {
                "digest": "sha256:" + "0" * 64,
                "coefficient": 1e30,
                "terms": [["resid_post", 3]],
                "positions": "all",
            }
        ]
    }
    body = {**chat_body("Hi"), "vllm_xargs": {"steersman": json.dumps(plan)}}
    answer = client.http.post(path, json=body)
    assert answer.status_code == 400, answer.text


def test_a_responses_stream_with_positions_outside_the_prompt(client: Client, rnd: str) -> None:
    use = {"id": rnd, "positions": {"start": 900, "stop": 901}}
    body = {"model": "smollm2", "input": "Hi", "stream": True, "steering": {"vectors": [use]}}
    answer = client.http.post("/v1/responses", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "steering.positions")


def test_a_request_that_can_never_fit_the_bank(client: Client, make_vector: Any) -> None:
    assert client.upload(make_vector(5, layers=tuple(range(30))), "wide").status_code == 201
    assert client.upload(make_vector(6, layers=tuple(range(30))), "wide2").status_code == 201
    assert client.upload(make_vector(7, layers=tuple(range(30))), "wide3").status_code == 201
    answer = client.chat(steering={"vectors": {"wide": 0.1, "wide2": 0.1, "wide3": 0.1}})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "too_many_terms"


@pytest.mark.parametrize(
    ("size", "announced", "code"),
    [
        (100 << 20, True, "body_too_large"),
        (100 << 20, False, "body_too_large"),
        (12 << 20, True, "inline_too_large"),
    ],
)
def test_large_data_is_refused_and_others_are_answered_meanwhile(
    client: Client, size: int, announced: bool, code: str
) -> None:
    text = json.dumps(chat_body(steering={"vectors": [{"data": "DATA"}]}))
    head, tail = (part.encode() for part in text.split("DATA"))
    piece = b"A" * (1 << 20)
    begun, goes_on = Event(), Event()

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(size // len(piece)):
            yield piece
            begun.set()
            assert goes_on.wait(60)
        yield tail

    length = {"Content-Length": str(len(head) + size + len(tail))} if announced else {}

    def send() -> httpx.Response:
        with httpx.Client(base_url=client.http.base_url, timeout=120) as http:
            return http.post(
                "/v1/chat/completions",
                content=body(),
                headers={"Content-Type": "application/json", **length},
            )

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        assert begun.wait(60)
        # In the midst of it.
        assert client.chat_text(max_tokens=2)
        goes_on.set()
        while not sent.done():
            assert client.http.get("/v1/models").status_code == 200
        answer = sent.result()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (413, code), answer.text
    assert error["param"] == ("body" if code.startswith("body") else "steering.vectors[0].data")
    assert client.chat_text() == "The capital of France is Paris."
    assert not client.metric("steering_bank_rows_used")


def test_nobody_notices(client: Client, rnd: str) -> None:
    calm = client.chat_text("Name three rivers.", max_tokens=64)
    with ThreadPoolExecutor(8) as pool:
        futures: list[Future[Any]] = [
            pool.submit(client.chat_text, "Name three rivers.", max_tokens=64)
        ]
        futures += [pool.submit(client.chat, steering=field) for field, _, _ in BAD]
        futures += [pool.submit(client.chat_text, "Name three rivers.", max_tokens=64)]
        results = [f.result() for f in futures]
    assert results[0] == calm
    assert results[-1] == calm
    assert client.http.get("/health").status_code == 200
