"""More vectors at once than the bank has rows for: requests wait, and past a limit get a 503.

The server has 64 rows and lets 4 requests wait; each vector here needs 25 rows.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.http.client import Client, chat_body

TOKENS = 100
QUESTION = "Describe a harbour at dawn."


@pytest.fixture(scope="module")
def broad(client: Client, make_vector: Callable[..., bytes]) -> list[str]:
    """Names of eight vectors of 25 rows each."""
    names = [f"broad{n}" for n in range(8)]
    for n, name in enumerate(names):
        client.upload(make_vector(20 + n, layers=tuple(range(25))), name)
    return names


def body_of(route: str, vector: str) -> tuple[str, dict[str, Any]]:
    steering = {"vectors": {vector: 0.01}}
    if route == "chat":
        fields = {"max_tokens": TOKENS, "ignore_eos": True, "steering": steering}
        return "/v1/chat/completions", chat_body(QUESTION, **fields)
    fields = {"max_output_tokens": TOKENS, "temperature": 0, "steering": steering}
    return "/v1/responses", {"model": "smollm2", "input": QUESTION, **fields}


def settled(client: Client) -> bool:
    """Whether no request in flight needs a row, within half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if client.metric("steering_bank_rows_used") == 0:
            return True
        time.sleep(0.1)
    return False


def test_requests_wait_for_rows_and_answer_as_if_alone(client: Client, broad: list[str]) -> None:
    def ask(name: str) -> str:
        fields = {"max_tokens": 40, "ignore_eos": True}
        return client.chat_text(QUESTION, steering={"vectors": {name: 0.3}}, **fields)

    alone = [ask(name) for name in broad[:5]]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(ask, broad[:5])) == alone
    assert settled(client)


@pytest.mark.parametrize(
    ("route", "stream"), [("chat", False), ("chat", True), ("responses", True)]
)
def test_too_many_that_wait_are_a_503_that_passes(
    client: Client, broad: list[str], route: str, stream: bool
) -> None:
    before = client.metric("steering_rejections_total")

    def ask(name: str) -> httpx.Response:
        path, body = body_of(route, name)
        return client.http.post(path, json={**body, "stream": stream})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, broad))
    refused = [a for a in answers if a.status_code == 503]
    # Two run, four wait, two are too many.
    assert sorted(a.status_code for a in answers) == [200] * 6 + [503] * 2
    for answer in refused:
        assert int(answer.headers["Retry-After"]) >= 1
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("bank_full", "server_error")
        assert "--bank-rows" in error["message"]
    assert client.metric("steering_rejections_total") == before + 2
    assert settled(client)
    assert ask(broad[7]).status_code == 200


def test_unsteered_requests_do_not_wait(client: Client, broad: list[str]) -> None:
    done = threading.Event()

    def fill(name: str) -> int:
        path, body = body_of("chat", name)
        status = client.http.post(path, json={**body, "max_tokens": 200}).status_code
        done.set()
        return status

    with ThreadPoolExecutor(4) as pool:
        full = [pool.submit(fill, name) for name in broad[:4]]
        while client.metric("steering_bank_rows_used") < 100:
            time.sleep(0.02)
        assert client.chat_text() == "The capital of France is Paris."
        assert not done.is_set()
        assert [f.result() for f in full] == [200] * 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_while_it_waits_is_forgotten(
    client: Client, broad: list[str], stream: bool
) -> None:
    def ask(name: str) -> int:
        path, body = body_of("chat", name)
        return client.http.post(path, json=body).status_code

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, name) for name in broad[:2]]
        while client.metric("steering_bank_rows_used") < 50:
            time.sleep(0.02)
        path, body = body_of("chat", broad[2])
        with pytest.raises(httpx.ReadTimeout):
            client.http.post(path, json={**body, "stream": stream}, timeout=0.3)
        while not all(f.done() for f in running) and client.metric("steering_bank_rows_used") > 50:
            time.sleep(0.02)
        assert not all(f.done() for f in running), "it held its place until the others had ended"
        assert [f.result() for f in running] == [200, 200]
    assert settled(client)
