"""Steersman's own routes, for benchmarks that make vectors."""

import time
from typing import Any

import httpx


def ask(http: httpx.Client, method: str, path: str, **options: Any) -> Any:
    """The JSON that comes back; an error ends the benchmark."""
    answer = http.request(method, path, **options)
    if answer.is_error:
        raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text}")
    return answer.json()


def extract(http: httpx.Client, request: dict[str, Any]) -> None:
    """Make what `request` asks for and wait until it is in the library."""
    job = ask(http, "POST", "/v1/steering/vectors/extract", json=request)
    while job["status"] in ("queued", "running"):
        time.sleep(0.5)
        job = ask(http, "GET", f"/v1/steering/jobs/{job['id']}")
    if job["status"] != "succeeded":
        raise SystemExit(f"{request['name']}: {job['error']}")
