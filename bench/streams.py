"""Streaming completions, and what they say about the time per output token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

Body = dict[str, Any]


@dataclass(frozen=True)
class Streamed:
    """One finished request. `seconds` are per output token after the first chunk."""

    seconds: float
    tokens: int
    receipt: Body | None


@dataclass(frozen=True)
class Batch:
    """Requests that were sent at once. `seconds` is the median of theirs per output token."""

    requests: list[Streamed]
    wall: float

    @property
    def seconds(self) -> float:
        return median(request.seconds for request in self.requests)

    @property
    def tokens_per_second(self) -> float:
        return sum(request.tokens for request in self.requests) / self.wall


async def send(client: httpx.AsyncClient, url: str, bodies: Sequence[Body]) -> Batch:
    """Send all `bodies` to `url`/v1/completions at once and read their streams to the end.

    Raises RuntimeError for an answer that is an error, is cut short, or breaks off.
    """
    start = time.perf_counter()
    requests = await asyncio.gather(*(_stream(client, url, body) for body in bodies))
    return Batch(list(requests), time.perf_counter() - start)


async def _stream(client: httpx.AsyncClient, url: str, body: Body) -> Streamed:
    options = {"include_usage": True, "continuous_usage_stats": True}
    request = {**body, "stream": True, "stream_options": options}
    arrivals: list[tuple[float, str]] = []
    async with client.stream("POST", f"{url}/v1/completions", json=request) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            raise RuntimeError(f"{url} answered {response.status_code}: {text}")
        # The engine has the same cores as this client, so lines are only stamped now.
        async for line in response.aiter_lines():
            arrivals.append((time.perf_counter(), line))
    return _read(arrivals, expected=body["max_tokens"])


def _read(arrivals: Sequence[tuple[float, str]], expected: int) -> Streamed:
    progress: list[tuple[float, int]] = []
    receipt: Body | None = None
    for at, line in arrivals:
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise RuntimeError(f"the stream broke off: {chunk['error']}")
        receipt = chunk.get("steering") or receipt
        count = chunk["usage"]["completion_tokens"] if chunk.get("usage") else 0
        if count > (progress[-1][1] if progress else 0):
            progress.append((at, count))
    if len(progress) < 2 or progress[-1][1] != expected:
        raise RuntimeError(f"wanted {expected} tokens in chunks, got {progress[-1:]}")
    (first_at, first), (last_at, last) = progress[0], progress[-1]
    return Streamed((last_at - first_at) / (last - first), last, receipt)
