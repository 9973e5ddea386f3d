"""The server of one vLLM under Steersman, in a process of its own: do the routes steer?

    python -m tests.compat.http FOLDER    # prints one JSON object last

`FOLDER` has a tiny model in `model`. Every check raises when it fails.
"""

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.servers import running, steersman
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.compat.engine import check
from tests.support.matrix.tiny import HIDDEN

TOKENS = 6
OPTIONS = [
    "--served-model-name", "tiny", "--max-model-len", "256", "--block-size", "32",
    "--kv-cache-memory-bytes", str(2**26), "--max-num-seqs", "8",
]  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "The sky", "max_tokens": TOKENS, "ignore_eos": True},
    "/v1/chat/completions": {**CHAT, "max_tokens": TOKENS, "ignore_eos": True},
    "/v1/chat/completions/batch": {
        "messages": [CHAT["messages"]], "max_tokens": TOKENS, "ignore_eos": True,
    },
    "/v1/responses": {"input": "Hello", "max_output_tokens": TOKENS, "ignore_eos": True},
    "/v1/messages": {**CHAT, "max_tokens": TOKENS},
}  # fmt: skip
REFUSED = ("/v1/decisions",)
STREAMED = ("/v1/completions", "/v1/chat/completions")


def upload(http: httpx.Client) -> None:
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    data = write_vector(SteeringVector({HookPoint("resid_post", 2): 2 * vector}))
    answer = http.post(
        "/v1/steering/vectors", data={"name": "rnd"}, files={"file": ("v.safetensors", data)}
    )
    check(answer.status_code in (200, 201), f"upload: {answer.text}")


def steers(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """A receipt where it was asked for, and only there; another text; errors in our words."""
    body = {"model": "tiny", "temperature": 0, **body}
    plain = http.post(path, json=body)
    check(plain.status_code == 200 and "steering" not in plain.json(), f"{path}: {plain.text}")
    field = {"vectors": {"rnd": 1.0}}
    steered = http.post(path, json={**body, "steering": field})
    check(steered.status_code == 200, f"{path}: {steered.text}")
    (vector,) = steered.json()["steering"]["vectors"]
    check(vector["steered_tokens"] == TOKENS, f"{path}: {vector}")
    key = {"/v1/responses": "output", "/v1/messages": "content"}.get(path, "choices")
    check(text_of(plain, key) != text_of(steered, key), f"{path}: the same text steered or not")
    wrong = http.post(path, json={**body, "steering": {**field, "vector": {}}})
    check((wrong.status_code, wrong.json()["error"]["param"]) == (400, "steering.vector"),
          f"{path}: {wrong.text}")  # fmt: skip


def streams(http: httpx.Client, path: str) -> None:
    """The last chunk of a stream has the receipt."""
    body = {"model": "tiny", "stream": True, "steering": {"vectors": {"rnd": 1.0}}, **ROUTES[path]}
    with http.stream("POST", path, json=body) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    check(["steering" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True],
          f"{path}: {lines}")  # fmt: skip


def refuses(http: httpx.Client, path: str) -> None:
    """A route that cannot be steered says so."""
    answer = http.post(path, json={"model": "tiny", "steering": {"vectors": {"rnd": 1.0}}})
    check((answer.status_code, answer.json()["error"]["param"]) == (400, "steering"),
          f"{path}: {answer.text}")  # fmt: skip


def leaves(http: httpx.Client) -> None:
    """A client that goes before its answer is there takes the request with it; no failure."""
    body = json.dumps(
        {**ROUTES["/v1/completions"], "model": "tiny", "n": 64, "max_tokens": 200,
         "steering": {"vectors": {"rnd": 1.0}}}
    ).encode()  # fmt: skip
    before = counted(http, 'steering_requests_total{outcome="failed",source="request"}')
    with socket.create_connection((http.base_url.host, http.base_url.port)) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        until(lambda: counted(http, "steering_bank_rows_used") > 0, "it never ran")
    until(
        lambda: counted(http, 'steering_requests_total{outcome="aborted",source="request"}') == 1,
        "not aborted",
    )
    check(
        counted(http, 'steering_requests_total{outcome="failed",source="request"}') == before,
        "it failed",
    )


def until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        check(time.monotonic() < deadline, otherwise)
        time.sleep(0.05)


def counted(http: httpx.Client, metric: str) -> float:
    """The value of a line of /metrics, 0 if there is none."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


def text_of(answer: httpx.Response, key: str) -> list[str]:
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            found.extend(
                v for k, v in value.items() if k in ("text", "content") and isinstance(v, str)
            )
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(answer.json()[key])
    return found


def main() -> int:
    folder = Path(sys.argv[1])
    command = steersman(str(folder / "model"), [*OPTIONS, "--library", str(folder / "shelf")])
    environment = {"STEERSMAN_HOME": str(folder / "home")}
    with (
        running("steersman", command, environment, folder / "server.log") as server,
        httpx.Client(base_url=server.url, timeout=120) as http,
    ):
        upload(http)
        for path, body in ROUTES.items():
            steers(http, path, body)
        for path in STREAMED:
            streams(http, path)
        for path in REFUSED:
            refuses(http, path)
        leaves(http)
        capabilities = http.get("/v1/steering/capabilities").json()
        check(capabilities["median_norms"] is not None, f"not calibrated: {capabilities}")
    print(
        json.dumps(
            {"routes": len(ROUTES), "streams": len(STREAMED), "refused": len(REFUSED),
             "aborted": 1, "calibrated": True}
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
