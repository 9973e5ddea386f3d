"""SIGTERM. Behind the other files in the alphabet: the second server is gone afterwards."""

import os
import signal
import threading
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from bench.servers import Server
from tests.support.http.client import Client, chat_body

pytestmark = pytest.mark.engine


def test_what_runs_finishes_and_nothing_new_begins(
    servers: tuple[Server, Server],
    clients: Callable[[int, str | None], Client],
    make_vector: Callable[..., bytes],
) -> None:
    second = clients(1, "admin")
    assert second.upload(make_vector(300), "last").status_code == 201
    fields = {"max_tokens": 100, "ignore_eos": True, "steering": {"vectors": {"last": 0.5}}}
    expected = clients(0, "admin").chat_text("Count.", **fields)
    texts: list[str] = []
    began = [threading.Event() for _ in range(3)]

    def stream(n: int) -> None:
        body = {**chat_body("Count.", **fields), "stream": True}
        text, ended = "", False
        with clients(1, "admin").http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                began[n].set()
                ended = ended or line == "data: [DONE]"
                if line.startswith("data: {"):
                    part = httpx.Response(200, content=line[6:]).json()
                    for choice in part["choices"]:
                        text += choice["delta"].get("content") or ""
        texts.append(text if ended else "cut off")

    streams = [threading.Thread(target=stream, args=(n,)) for n in range(3)]
    for one in streams:
        one.start()
    assert all(event.wait(60) for event in began)
    texts_job = {"positive": ["I am glad"] * 8, "negative": ["I am sad"] * 8}
    job = {"name": "late", "method": "mean_difference", "layers": [10], **texts_job}
    submitted = second.http.post("/v1/steering/vectors/extract", json=job)
    assert submitted.status_code == 202

    process = psutil.Process(servers[1].pid)
    os.kill(servers[1].pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while (ready := second.http.get("/ready")).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ready.json() == {"status": "not_ready", "reasons": ["draining"]}
    assert second.http.get("/health").status_code == 200, "alive, so that nobody kills it"
    late = second.chat(max_tokens=1)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
    assert late.headers["connection"] == "close"
    assert int(late.headers["retry-after"]) >= 1

    for one in streams:
        one.join()
    assert texts == [expected] * 3
    assert process.wait(60) == 0
    first = clients(0, "admin")
    found = first.http.get(f"/v1/steering/jobs/{submitted.json()['id']}").json()
    assert found["status"] == "succeeded", found
    assert first.http.get("/v1/steering/vectors/late").status_code == 200
    assert first.http.get("/ready").status_code == 200
