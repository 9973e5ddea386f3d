"""Make a vector from two files of texts, over REST, and steer with it.

    python examples/make_vector.py                 # the demo server on port 8000, the name `glad`
    python examples/make_vector.py http://host:9000 sunny glad.txt gloomy.txt

The server computes the difference between the means of the residual stream over both sides.
"""

import sys
import time
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
LAYERS = [14, 16]
"""Where the stream is read. Of these the vector steers by default where it is most reliable."""


def main(
    server: str = "http://127.0.0.1:8000",
    name: str = "glad",
    positive: str = str(HERE / "glad.txt"),
    negative: str = str(HERE / "gloomy.txt"),
) -> None:
    with httpx.Client(base_url=server, timeout=120) as http:
        job = extract(http, name, lines(positive), lines(negative))
        made = http.get(f"/v1/steering/vectors/{name}").json()
        print(f"{name} is made of {job['progress']['done']} texts; it steers at {made['layers']}")
        for coefficient in (0.0, 1.0):
            print(f"at {coefficient}:", ask(http, name, coefficient))


def lines(path: str) -> list[str]:
    """The texts of a file, one a line."""
    return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def extract(
    http: httpx.Client, name: str, positive: list[str], negative: list[str]
) -> dict[str, Any]:
    """Start a job and wait for it. Returns the job; exits where it failed."""
    wanted = {"method": "mean_difference", "name": name, "layers": LAYERS}
    answer = http.post(
        "/v1/steering/vectors/extract", json={**wanted, "positive": positive, "negative": negative}
    )
    job: dict[str, Any] = answer.json()
    if answer.status_code != 202:
        sys.exit(job["error"]["message"])
    while job["status"] in ("queued", "running"):
        time.sleep(0.5)
        job = http.get(f"/v1/steering/jobs/{job['id']}").json()
    if job["status"] != "succeeded":
        sys.exit(f"{job['status']}: {job['error']}")
    return job


def ask(http: httpx.Client, name: str, coefficient: float) -> str:
    """An answer, steered with the vector."""
    model = http.get("/v1/models").json()["data"][0]["id"]
    answer = http.post(
        "/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": "How was your day?"}],
            "temperature": 0,
            "max_tokens": 40,
            "steering": {"vectors": {name: coefficient}},
        },
    )
    text: str = answer.raise_for_status().json()["choices"][0]["message"]["content"]
    return text


if __name__ == "__main__":
    main(*sys.argv[1:])
