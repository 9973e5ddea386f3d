"""kill -9 of the engine core's process, below the API server."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.faults.conftest import Said
from tests.support.faults.deployment import Deployment, alive, shared_memory, until
from tests.support.faults.sound import listed, steered
from tests.support.http.client import Client, completion_body


def test_requests_end_in_an_error_and_the_server_goes(
    deployment: Deployment, client: Client, make_vector: Callable[..., bytes], say: Said
) -> None:
    assert client.upload(make_vector(1), "kept").status_code in (200, 201)
    before = listed(client)
    old = deployment.processes()
    shared = {path for process in old for path in shared_memory(process)}
    body = completion_body(max_tokens=900, ignore_eos=True, steering={"vectors": {"kept": 1.0}})
    said: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        whole = pool.submit(client.http.post, "/v1/completions", json=body)
        with client.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
            for _ in range(5):
                assert "choices" in json.loads(next(lines))
            killed = time.monotonic()
            deployment.core().kill()
            said = [line for line in lines if not line.startswith('{"id"')]
        say(f"the stream ended {time.monotonic() - killed:.1f} s after, with: {said}")
        refused = whole.result()
    # Whoever waits for an answer or reads a stream is told, and no stream looks like a whole one.
    assert "error" in json.loads(said[0])
    assert refused.status_code == 500
    say(f"the other request: {refused.status_code} {refused.text}")
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}

    assert deployment.process is not None
    seen: list[int | str] = []

    def gone() -> bool:
        try:
            seen.append(httpx.get(f"{deployment.url}/health", timeout=2).status_code)
        except httpx.TransportError as error:
            seen.append(type(error).__name__)
        assert deployment.process is not None
        return deployment.process.poll() is not None

    until(gone, 60, lambda: f"the server still runs; /health said {seen}")
    status = deployment.process.returncode
    say(f"gone {time.monotonic() - killed:.1f} s after, exit status {status}; /health: {seen}")
    assert 200 not in seen
    until(lambda: not any(map(alive, old)), 60, lambda: f"{[p for p in old if alive(p)]}")
    (dead, *_) = (line for line in deployment.log.splitlines() if "EngineDeadError" in line)
    say(f"the log: {dead}")
    left = {path.name: path.stat().st_blocks >> 1 for path in shared if path.exists()}
    say(f"of {len(shared)} files in /dev/shm these are left, in KiB: {left}")

    deployment.start()
    assert listed(client) == before
    assert steered(client, "kept")["steered_tokens"] == 4
    # An orchestrator that restarts what has failed, as systemd can, must see that it has.
    assert status != 0
