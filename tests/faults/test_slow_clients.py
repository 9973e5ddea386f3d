"""200 clients that send a byte a second: others are served meanwhile."""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psutil

from tests.faults.conftest import Said
from tests.support.faults.deployment import VECTORS, Deployment, until
from tests.support.faults.slow import Trickle
from tests.support.http.client import Client, chat_body

CLIENTS = 200
OTHERS = 12
JSON = b"application/json"
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="v"\r\n\r\n'
HEAD = b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n"


@contextlib.asynccontextmanager
async def crowd(trickles: list[Trickle]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """All of them at once."""
    tasks = [asyncio.create_task(trickle.run()) for trickle in trickles]
    await asyncio.sleep(2)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def others(deployment: Deployment) -> list[float]:
    """Seconds of chats that others ask for, one after another; each is answered."""
    took = []
    body = chat_body(max_tokens=8, steering={"vectors": {"kept": 1.0}})
    async with httpx.AsyncClient(base_url=deployment.url, timeout=60, trust_env=False) as http:
        for _ in range(OTHERS):
            began = time.monotonic()
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert (await http.get("/health")).status_code == 200
            assert (await http.get(VECTORS)).status_code == 200
            took.append(time.monotonic() - began)
    return took


def server(deployment: Deployment) -> psutil.Process:
    return deployment.processes()[0]


def in_words(took: list[float]) -> str:
    return f"median {statistics.median(took):.2f} s, longest {max(took):.2f} s"


async def test_headers(
    deployment: Deployment, client: Client, make_vector: Callable[..., bytes], say: Said
) -> None:
    """uvicorn has no time limit for headers: such a client keeps its connection as long as it
    likes. It costs a file descriptor and a little memory, and delays nobody."""
    assert client.upload(make_vector(1), "kept").status_code in (200, 201)
    await others(deployment)  # Whatever is loaded at first.
    alone = await others(deployment)
    process = server(deployment)
    memory, files = process.memory_info().rss, process.num_fds()
    trickles = [
        Trickle(deployment.port, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a" * 600)
        for _ in range(CLIENTS)
    ]
    async with crowd(trickles) as tasks:
        meanwhile = await others(deployment)
        held = process.num_fds() - files
        cost = (process.memory_info().rss - memory) / CLIENTS / 1024
        left = sum(task.done() for task in tasks)
    say(f"three requests of others: alone {in_words(alone)}; meanwhile {in_words(meanwhile)}")
    say(f"{CLIENTS} slow clients: {held} file descriptors, {cost:.1f} KiB of memory each")
    say(f"after {max(t.sent for t in trickles)} bytes of headers the server had ended {left}")
    # They are gone when their clients are.
    await asyncio.to_thread(until, lambda: process.num_fds() <= files + 10, 60)
    assert client.chat().status_code == 200


async def test_bodies(deployment: Deployment, client: Client, say: Said) -> None:
    """Of chats, uploads, extractions and changes: ended by the server when their time is over."""
    vectors = VECTORS.encode()
    heads = [
        HEAD % (b"POST", b"/v1/chat/completions", JSON),
        HEAD % (b"POST", b"/v1/completions", JSON),
        HEAD % (b"POST", vectors, b"multipart/form-data; boundary=x") + FORM,
        HEAD % (b"POST", vectors + b"/extract", JSON),
        HEAD % (b"PATCH", vectors + b"/kept", JSON),
    ]
    process = server(deployment)
    files = process.num_fds()
    trickles = [Trickle(deployment.port, heads[n % len(heads)], b" " * 600) for n in range(CLIENTS)]
    async with crowd(trickles) as tasks:
        meanwhile = await others(deployment)
        async with asyncio.timeout(120):
            await asyncio.gather(*tasks)
    say(f"three requests of others meanwhile: {in_words(meanwhile)}")
    answers = {answer_of(trickle)[0] for trickle in trickles}
    lasted = [trickle.lasted or 0 for trickle in trickles]
    say(f"ended after {min(lasted):.1f} to {max(lasted):.1f} s with {answers}")
    for trickle in trickles:
        status, error = answer_of(trickle)
        assert (status, error["code"]) == (408, "body_timeout"), trickle.said
    say(f"a client reads: 408 {error}")
    await asyncio.to_thread(until, lambda: process.num_fds() <= files + 10, 60)
    assert client.chat().status_code == 200


def answer_of(trickle: Trickle) -> tuple[int, dict[str, Any]]:
    """Status and error."""
    head, _, body = trickle.said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), trickle.said
    return int(head.split()[1]), json.loads(body)["error"]
