"""What the server itself says while it is under load."""

from __future__ import annotations

import time
from typing import NamedTuple

import httpx

from bench.report import say
from bench.servers import Server

EVERY_S = 2.0
SAID_EVERY = 5


class Sample(NamedTuple):
    """Requests in the engine at wall-clock time `at`."""

    at: float
    running: int
    waiting: int


class Watch:
    """Looks at /metrics every two seconds when called, and says every fifth of it."""

    def __init__(self, server: Server) -> None:
        self.samples: list[Sample] = []
        self._client = httpx.Client(base_url=server.url, timeout=10, trust_env=False)

    def __call__(self) -> None:
        if self.samples and time.time() - self.samples[-1].at < EVERY_S:
            return
        sample = self.look()
        self.samples.append(sample)
        if len(self.samples) % SAID_EVERY == 0:
            say(f"{sample.running} running, {sample.waiting} waiting")

    def look(self) -> Sample:
        """One sample, without keeping it."""
        values = {"running": 0.0, "waiting": 0.0}
        for line in self._client.get("/metrics").text.splitlines():
            for name in values:
                if line.startswith(f"vllm:num_requests_{name}{{"):
                    values[name] += float(line.rsplit(" ", 1)[1])
        return Sample(time.time(), int(values["running"]), int(values["waiting"]))

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until nothing runs or waits. Raises RuntimeError after `seconds`."""
        deadline = time.monotonic() + seconds
        while (sample := self.look()).running or sample.waiting:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{sample.running} requests still run, {sample.waiting} wait")
            time.sleep(1)
