"""The body limit: announced or counted, never kept, and not waited for without end."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.middleware.body_limit import BodyLimit


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http", "method": "POST", "path": "/v1/steering/vectors", "raw_path": b"",
        "query_string": b"", "headers": list(headers), "root_path": "",
        "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": None,
    }  # fmt: skip


def app(limit: int = 100, *, swallow: bool = False, seconds: float = 60) -> FastAPI:
    inner = FastAPI()
    error_response.install(inner)
    inner.state.received = 0
    inner.state.called = 0

    async def endpoint(request: Request) -> PlainTextResponse:
        inner.state.called += 1
        try:
            async for chunk in request.stream():
                inner.state.received += len(chunk)
        except Exception:
            if not swallow:
                raise
            return PlainTextResponse("I saw nothing")
        return PlainTextResponse(str(inner.state.received))

    inner.add_route("/v1/steering/vectors", endpoint, methods=["POST"])
    inner.add_route("/v1/steeringwheel", endpoint, methods=["POST"])
    inner.add_route("/v1/completions", endpoint, methods=["POST"])
    inner.add_middleware(BodyLimit, max_upload_bytes=limit, max_bytes=5000, seconds=seconds)
    return inner


def chunks(count: int, size: int = 10) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def is_413(reply: Any) -> bool:
    error = reply.json()["error"]
    return (reply.status_code, error["type"], error["param"], error["code"]) == (
        413, "invalid_request_error", "file", "upload_too_large",
    )  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 100])
def test_bodies_up_to_the_limit_pass(size: int) -> None:
    reply = TestClient(app()).post("/v1/steering/vectors", content=b"x" * size)
    assert (reply.status_code, reply.text) == (200, str(size))


def test_an_announced_body_over_the_limit_is_not_read() -> None:
    inner = app()
    assert is_413(TestClient(inner).post("/v1/steering/vectors", content=b"x" * 101))
    assert (inner.state.called, inner.state.received) == (0, 0)


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_chunked_body_is_cut_off_at_the_limit(swallow: bool) -> None:
    inner = app(swallow=swallow)

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks(1000):
            yield chunk

    transport = httpx.ASGITransport(inner)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert is_413(await client.post("/v1/steering/vectors", content=body()))
    assert inner.state.received == 100


def test_a_chunked_body_within_the_limit_passes() -> None:
    reply = TestClient(app()).post("/v1/steering/vectors", content=chunks(10))
    assert (reply.status_code, reply.text) == (200, "100")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/steeringwheel"])
def test_other_paths_have_a_limit_of_their_own(path: str) -> None:
    client = TestClient(app())
    assert client.post(path, content=b"x" * 5000).text == "5000"
    reply = client.post(path, content=b"x" * 5001)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_body_that_takes_too_long_is_a_408(swallow: bool) -> None:
    """One byte, and then nothing: the clock is the event loop's, so the wait is real but short."""
    sent = []
    first = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if first:
            return first.pop()
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(seconds=0.05, swallow=swallow)(scope(), receive, send)
    start, body = sent
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["error"]["code"] == "body_timeout"


async def test_waiting_for_the_client_to_go_is_not_waiting_for_its_body() -> None:
    """After the body, `receive` tells of the end of the connection: there is no limit on that."""
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": b"x", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        asyncio.get_running_loop().call_later(0.1, gone.set)
        seen.append(await receive())

    unused: Any = None
    await BodyLimit(inner, seconds=0.01)(scope(), receive, unused)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("length", [b"-1", b"abc", b"1e9", b"\xb2"])
async def test_a_nonsense_length_is_counted_instead(length: bytes) -> None:
    inner = app()
    sent = []
    messages = [{"type": "http.request", "body": b"x" * 60, "more_body": True}] * 3

    async def receive() -> dict[str, Any]:
        return messages.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await inner(scope((b"content-length", length)), receive, send)
    assert sent[0]["status"] == 413


async def test_other_kinds_of_calls_pass() -> None:
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await BodyLimit(inner)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
