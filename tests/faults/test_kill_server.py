"""kill -9 of the API server: while it streams, while a body arrives, while it keeps vectors, while
it extracts. Each test leaves it started again, on the same library and port."""

import contextlib
import itertools
import json
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from tests.faults.conftest import Said
from tests.faults.deployment import VECTORS, Deployment, alive, until
from tests.faults.sound import error_of, listed, rests, steered
from tests.faults.writer import Writer
from tests.http.client import Client, completion_body
from tests.http.conftest import HIDDEN
from vectors.disk import TEMP_PREFIX
from vectors.format import SteeringVector, read_vector, write_vector

JOBS = "/v1/steering/jobs"
TEXTS = [f"Text number {n} of many, about the weather in the hills." for n in range(300)]
EXTRACTION: dict[str, Any] = {
    "name": "made",
    "method": "mean_difference",
    "positive": [f"{text} It was lovely." for text in TEXTS],
    "negative": [f"{text} It was dreadful." for text in TEXTS],
}


def kill_and_start_again(deployment: Deployment, say: Said) -> None:
    old = deployment.processes()
    assert deployment.kill() == -9
    start_again(deployment, old, say)


def start_again(deployment: Deployment, old: list[psutil.Process], say: Said) -> None:
    """At once; and of `old`, the processes of the dead one, none outlives it by long."""
    began = time.monotonic()
    try:
        deployment.start()
        say(f"started again, on the same port, in {time.monotonic() - began:.0f} s")
        until(lambda: not any(map(alive, old)), 10, lambda: f"left: {[p for p in old if alive(p)]}")
    finally:
        for process in filter(alive, old):
            process.kill()


def test_while_it_streams(
    deployment: Deployment, client: Client, make_vector: Callable[..., bytes], say: Said
) -> None:
    assert client.upload(make_vector(1), "kept").status_code in (200, 201)
    before = listed(client)
    shared = set(os.listdir("/dev/shm"))
    lines: list[str] = []
    body = completion_body(
        max_tokens=900, ignore_eos=True, stream=True, steering={"vectors": {"kept": 1.0}}
    )
    with client.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        stream = answer.iter_lines()
        lines += itertools.islice(stream, 10)
        old = deployment.processes()
        assert deployment.kill() == -9
        with pytest.raises(httpx.RemoteProtocolError) as broken:
            lines.extend(stream)
    say(f"the client of the stream: {broken.type.__name__}: {broken.value}")
    start_again(deployment, old, say)
    # No end that a client could take for one: neither the mark nor a reason to finish.
    assert "data: [DONE]" not in lines
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert {choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]} == {None}
    assert listed(client) == before
    assert rests(deployment.library) == []
    assert steered(client, "kept")["steered_tokens"] == 4
    say(f"left in /dev/shm: {sorted(set(os.listdir('/dev/shm')) - shared)}")


def test_while_a_body_arrives(deployment: Deployment, client: Client, say: Said) -> None:
    """Of 2 MB, more than is kept in memory: what came is in a temporary file."""
    before = listed(client)
    steps = {("resid_post", layer): torch.randn(32, HIDDEN) for layer in range(30)}
    file = write_vector(SteeringVector(steps))
    request = client.http.build_request(
        "POST", VECTORS, files={"file": ("v.safetensors", file)}, data={"name": "cut"}
    )
    body = request.read()
    head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
    with socket.create_connection(("127.0.0.1", deployment.port), timeout=30) as connection:
        connection.sendall(f"POST {VECTORS} HTTP/1.1\r\n{head}\r\n".encode() + body[:1_500_000])
        time.sleep(1)  # For the server to have read it.
        files = {str(f.path) for p in deployment.processes() for f in p.open_files()}
        kill_and_start_again(deployment, say)
        # Ended, and not answered.
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    assert listed(client) == before
    assert rests(deployment.library) == []
    spooled = [
        path for path in files if Path(path).parent == Path(os.environ.get("TMPDIR", "/tmp"))
    ]
    assert [path for path in spooled if Path(path).exists()] == []
    # The same upload, whole.
    assert client.http.send(request).status_code == 201


def test_while_it_keeps_vectors(
    deployment: Deployment, client: Client, make_vector: Callable[..., bytes], say: Said
) -> None:
    """At a random moment of what four clients upload, swap and delete."""
    before = listed(client)
    files = {read_vector(file).digest: file for file in (make_vector(100 + n) for n in range(12))}
    writers = [Writer(own, deployment.url, files) for own in range(4)]
    for writer in writers:
        writer.start()
    time.sleep(random.uniform(2.0, 4.0))
    old = deployment.processes()
    assert deployment.kill() == -9
    for writer in writers:
        writer.join()
    start_again(deployment, old, say)
    after = listed(client)
    for writer in writers:
        assert writer.trouble == []
        for name, states in writer.may_be.items():
            assert after.get(name) in states, (name, states)
    assert before.items() <= after.items()
    unsure = sum(len(states) > 1 for writer in writers for states in writer.may_be.values())
    changes = sum(writer.changes for writer in writers)
    say(f"after {changes} changes, {unsure} of them unanswered: every name is as it was told")
    # What the kill left of a write goes when it is an hour old: at a start, or with a change.
    left = rests(deployment.library)
    say(f"half-written files: {len(left)}")
    for name in after.keys() - before.keys():
        assert client.http.delete(f"{VECTORS}/{name}").status_code == 200


def test_while_it_extracts(deployment: Deployment, client: Client, say: Said) -> None:
    answer = client.http.post(f"{VECTORS}/extract", json=EXTRACTION)
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    until(lambda: client.http.get(f"{JOBS}/{job}").json()["progress"]["done"] > 20, 120)
    behind = client.http.post(f"{VECTORS}/extract", json={**EXTRACTION, "name": "behind"}).json()
    # What a kill in the middle of a write leaves, two hours ago.
    rest = deployment.library / "jobs" / f"{TEMP_PREFIX}0123456789abcdef"
    rest.write_bytes(b"{")
    os.utime(rest, (time.time() - 7200,) * 2)
    kill_and_start_again(deployment, say)

    assert client.http.get(f"{VECTORS}/made").status_code == 404
    for lost in (job, behind["id"]):
        told = until(
            lambda lost=lost: _ended(client.http.get(f"{JOBS}/{lost}").json()), 120, every=1
        )
        assert (told["status"], told["error"]["code"]) == ("failed", "job_lost")
    say(f"the job is told as: {told['status']}, {told['error']}")
    assert rests(deployment.library) == []
    assert client.http.get(f"{VECTORS}/made").status_code == 404

    again = client.http.post(
        f"{VECTORS}/extract",
        json={**EXTRACTION, "positive": TEXTS[:8], "negative": EXTRACTION["negative"][:8]},
    )
    assert again.status_code == 202, again.text
    told = until(lambda: _ended(client.http.get(f"{JOBS}/{again.json()['id']}").json()), 240)
    assert told["status"] == "succeeded", told
    assert "made" in listed(client)
    assert {p.suffix for p in (deployment.library / "jobs").iterdir()} == {".json"}


def _ended(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job["status"] in ("failed", "succeeded", "cancelled") else None


def test_errors_have_a_shape(client: Client) -> None:
    """So that what other tests read is what a client reads."""
    assert error_of(client.http.get(f"{VECTORS}/nobody"), 404)["code"] == "vector_not_found"
