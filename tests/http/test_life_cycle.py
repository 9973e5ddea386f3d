"""Vectors come and go while requests run."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.http.client import Client, chat_body


def test_an_upload_is_there_for_the_next_request(
    client: Client, make_vector: Callable[..., bytes]
) -> None:
    for n in range(5):
        assert client.upload(make_vector(100 + n), f"fresh{n}").status_code == 201
        answer = client.chat(max_tokens=2, steering={"vectors": {f"fresh{n}": 1.0}})
        assert answer.status_code == 200
        assert answer.json()["steering"]["vectors"][0]["steered_tokens"] == 2
        assert client.http.delete(f"/v1/steering/vectors/fresh{n}").status_code == 200


def test_deleting_a_vector_in_use_harms_nobody(client: Client, own: str) -> None:
    body = chat_body(max_tokens=60, ignore_eos=True, steering={"vectors": {own: 1.0}})
    whole = client.http.post("/v1/chat/completions", json=body).json()
    text, deleted = "", False
    with client.http.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": True}
    ) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            text += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            if not deleted and text:
                assert client.http.delete(f"/v1/steering/vectors/{own}").status_code == 200
                refused = client.http.post("/v1/chat/completions", json=body)
                assert refused.status_code == 400
                assert refused.json()["error"]["code"] == "vector_not_found"
                deleted = True
    assert deleted
    assert text == whole["choices"][0]["message"]["content"]
    assert chunk["steering"]["vectors"][0]["steered_tokens"] == 60


def test_a_swap_is_atomic(client: Client, own: str, make_vector: Callable[..., bytes]) -> None:
    client.upload(make_vector(777), "other")
    ids = {n: client.http.get(f"/v1/steering/vectors/{n}").json()["digest"] for n in (own, "other")}
    answer = client.http.patch(f"/v1/steering/vectors/{own}", json={"digest": ids["other"]})
    assert answer.status_code == 200
    used = client.chat(steering={"vectors": {own: 1.0}}).json()["steering"]["vectors"][0]
    assert used["digest"] == ids["other"]
    pinned = f"{own}@{ids[own].removeprefix('sha256:')[:16]}"
    used = client.chat(steering={"vectors": {pinned: 1.0}}).json()["steering"]["vectors"][0]
    assert used["digest"] == ids[own]


def test_defaults_can_be_patched(client: Client, own: str) -> None:
    change = {"coefficient": -0.5, "layers": [14], "positions": "all"}
    assert client.http.patch(f"/v1/steering/vectors/{own}", json=change).status_code == 200
    used = client.chat(steering={"vectors": [{"id": own}]}).json()["steering"]["vectors"][0]
    assert (used["coefficient"], used["layers"], used["positions"]) == (-0.5, [14], "all")


def test_a_client_that_hangs_up_leaves_nothing(client: Client, own: str) -> None:
    body = chat_body(max_tokens=1500, ignore_eos=True, steering={"vectors": {own: 1.0}})
    with client.http.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": True}
    ) as answer:
        assert client.metric("steering_bank_rows_used") >= 2
        next(answer.iter_lines())
    deadline = time.monotonic() + 20
    while client.metric("steering_bank_rows_used") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert client.metric("steering_bank_rows_used") == 0
    assert client.chat_text() == "The capital of France is Paris."
    lines = client.http.get("/metrics").text.splitlines()
    aborted = [
        x
        for x in lines
        if x.startswith('steering_requests_total{outcome="aborted",source="request"}')
    ]
    assert float(aborted[0].rsplit(" ", 1)[1]) >= 1


def test_64_uploads_and_deletes_at_once(client: Client, make_vector: Callable[..., bytes]) -> None:
    files = [make_vector(1000 + n) for n in range(64)]

    def come_and_go(n: int) -> tuple[int, int]:
        up = client.upload(files[n], f"swarm{n}").status_code
        down = 0
        if n % 2:
            down = client.http.delete(f"/v1/steering/vectors/swarm{n}").status_code
        return up, down

    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(come_and_go, range(64)))
    assert results == [(201, 200 if n % 2 else 0) for n in range(64)]
    names = {v["id"] for v in client.http.get("/v1/steering/vectors?limit=1000").json()["data"]}
    assert {n for n in names if n.startswith("swarm")} == {f"swarm{n}" for n in range(0, 64, 2)}
    for n in range(0, 64, 2):
        assert client.http.delete(f"/v1/steering/vectors/swarm{n}").status_code == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"not a safetensors file at all", 400),
        (b"\x80\x04\x95" + b"pickle" * 100, 400),
        ((90 << 20).to_bytes(8, "little") + b"{" * 1000, 400),
        (b"\0" * 2_000_000, 413),
    ],
)
def test_hostile_uploads(client: Client, data: bytes, status: int) -> None:
    answer = client.upload(data, "hostile")
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert client.http.get("/v1/steering/vectors/hostile").status_code == 404


def test_a_vector_for_another_model(client: Client, make_vector: Callable[..., bytes]) -> None:
    assert client.upload(make_vector(1, hidden=768, layers=(3,)), "gpt2").status_code == 400
    assert client.upload(make_vector(1, layers=(30,)), "deeper").status_code == 400
    assert client.upload(make_vector(1)[:-100], "truncated").status_code == 400


def test_two_gigabytes_are_refused_before_they_are_sent(client: Client) -> None:
    url = client.http.base_url
    head = (
        f"POST /v1/steering/vectors HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {2 << 30}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_metrics_tell_the_story(client: Client, own: str) -> None:
    names = ("requests_total", "tokens_total", "upload_seconds_count", "load_seconds_count")
    before = {n: client.metric(f"steering_{n}") for n in names}
    tokens = client.chat(steering={"vectors": {own: 1.0}}).json()["usage"]["completion_tokens"]
    after = {n: client.metric(f"steering_{n}") for n in names}
    assert after["requests_total"] == before["requests_total"] + 1
    assert after["tokens_total"] == before["tokens_total"] + tokens
    assert after["load_seconds_count"] == before["load_seconds_count"] + 1
    assert client.metric("steering_bank_rows_total") == 64
    assert client.metric("steering_resident_vectors") >= 1
    count = len(client.http.get("/v1/steering/vectors?limit=1000").json()["data"])
    assert client.metric("steering_library_vectors") == count
    rejected = client.metric("steering_rejections_total")
    client.chat(steering={"vectors": {"nobody": 1.0}})
    assert client.metric("steering_rejections_total") == rejected + 1
