"""What a quiet server holds: rows, requests, memory and open files."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import psutil

from bench.servers import Server

PATIENCE_S = 60.0
GROWTH_MIB = 32.0
"""A process may hold so much more at the end than after warming up: allocators keep some."""
MORE_FILES = 8


@dataclass(frozen=True)
class State:
    """A server at rest. Memory is resident, in MiB; processes go by their role and number."""

    bank_rows_used: int
    table_entries_free: int
    requests_in_workers: int
    vectors_resident: int
    requests_running: float
    requests_waiting: float
    cache_usage: float
    rows_used_gauge: float
    rss_mib: dict[str, float]
    files: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """For the result."""
        return asdict(self)

    def in_words(self) -> str:
        """One line of it."""
        memory = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in self.rss_mib.items())
        return (
            f"{self.bank_rows_used} bank rows used, {self.table_entries_free} table entries free, "
            f"{self.vectors_resident} vectors resident, "
            f"{self.requests_running + self.requests_waiting:.0f} requests; {memory}"
        )


async def quiet_state(server: Server, client: httpx.AsyncClient) -> State:
    """The server's state once nothing runs any more, or after `PATIENCE_S` whatever there is."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        metrics = _metrics((await client.get("/metrics")).text)
        running, waiting = (
            metrics["vllm:num_requests_running"],
            metrics["vllm:num_requests_waiting"],
        )
        rows = metrics["steering_bank_rows_used"]
        if running + waiting + rows == 0 or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    # The workers hear of ended requests with the next step: have two.
    for _ in range(2):
        body = {"model": "smollm2", "prompt": "So", "max_tokens": 2}
        (await client.post("/v1/completions", json=body)).raise_for_status()
    # Idle connections of the clients end after 5 s, and are files until then.
    await asyncio.sleep(8)
    gc.collect()
    metrics = _metrics((await client.get("/metrics")).text)
    response = await client.post("/collective_rpc", json={"method": "steering_status"})
    response.raise_for_status()
    (worker,) = response.json()["results"]
    processes = _processes(server)
    return State(
        bank_rows_used=worker["bank_rows_used"],
        table_entries_free=worker["free_table_entries"],
        requests_in_workers=worker["requests"],
        vectors_resident=worker["vectors_resident"],
        requests_running=metrics["vllm:num_requests_running"],
        requests_waiting=metrics["vllm:num_requests_waiting"],
        cache_usage=metrics["vllm:kv_cache_usage_perc"],
        rows_used_gauge=metrics["steering_bank_rows_used"],
        rss_mib={n: round(p.memory_info().rss / 2**20, 1) for n, p in processes.items()},
        files={n: p.num_fds() for n, p in processes.items()},
    )


def compare(warm: State, end: State) -> list[str]:
    """What is not at the end as it was after warming up, or is held at rest at all."""
    wrong = []
    for name, state in (("warm-up", warm), ("the end", end)):
        held = {
            key: value
            for key, value in asdict(state).items()
            if key in ("bank_rows_used", "requests_in_workers", "requests_running",
                       "requests_waiting", "cache_usage", "rows_used_gauge") and value
        }  # fmt: skip
        if held:
            wrong.append(f"a quiet server holds, after {name}: {held}")
    if end.table_entries_free != warm.table_entries_free:
        wrong.append(
            f"{warm.table_entries_free} free table entries became {end.table_entries_free}"
        )
    for process, before in warm.rss_mib.items():
        after = end.rss_mib.get(process)
        if after is None:
            wrong.append(f"the process {process} is gone")
        elif after - before > GROWTH_MIB:
            wrong.append(f"{process} grew from {before} to {after} MiB")
        elif end.files[process] - warm.files[process] > MORE_FILES:
            wrong.append(
                f"{process} had {warm.files[process]} files open and has {end.files[process]}"
            )
    return wrong


def _processes(server: Server) -> dict[str, psutil.Process]:
    """The server's processes under names that stay the same through a run."""
    leader = psutil.Process(server.pid)
    found = {"api server": leader}
    for process in leader.children(recursive=True):
        title = " ".join(process.cmdline()[:1])
        if title.startswith("VLLM::"):
            found[f"{title.removeprefix('VLLM::').lower()} {process.pid}"] = process
    return found


def _metrics(text: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            plain = name.partition("{")[0]
            values[plain] = values.get(plain, 0.0) + float(value)
    return values
