"""What a server takes, and how long it waits for it."""

import json
import select
import socket
from collections.abc import Callable

import pytest

from bench.servers import Server
from tests.operate.conftest import As
from tests.support.http.client import chat_body

pytestmark = pytest.mark.engine


def test_a_body_over_the_limit(key: As) -> None:
    long = key("infer").chat("word " * 50_000)
    assert (long.status_code, long.json()["error"]["code"]) == (413, "body_too_large")


def test_an_upload_over_the_limit(key: As) -> None:
    answer = key("write").upload(b"x" * 1_100_000, "big")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "upload_too_large")


def test_the_library_has_room_for_so_many(key: As, make_vector: Callable[..., bytes]) -> None:
    admin = key("admin")
    have = admin.http.get("/v1/steering/vectors?limit=1000").json()["data"]
    made = [f"many-{n}" for n in range(40 - len(have))]
    for n, name in enumerate(made):
        assert admin.upload(make_vector(100 + n, layers=(1,)), name).status_code == 201
    full = admin.upload(make_vector(99, layers=(1,)), "one-more")
    assert (full.status_code, full.json()["error"]["code"]) == (403, "library_limit")
    for name in made:
        assert admin.http.delete(f"/v1/steering/vectors/{name}").status_code == 200


def test_a_client_that_sends_a_byte_a_second(servers: tuple[Server, Server], key: As) -> None:
    host, port = servers[0].url.removeprefix("http://").split(":")
    body = json.dumps(chat_body()).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer sk-infer\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        for byte in body:
            connection.sendall(bytes([byte]))
            if select.select([connection], [], [], 1.0)[0]:
                break
            assert key("infer").http.get("/v1/models").status_code == 200, "others go on"
        # Until the server closes: head and body may come apart.
        answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 408 "), answer
    assert "body_timeout" in answer
    assert "connection: close" in answer.lower()
