"""How long requests with vectors that are not in the bank hold a worker's steps: many arrive at
once, each with a vector of its own.

    python -m bench.engine.arrivals [--arrivals 256] [--forward 5]

Kept in bench/results/arrivals.json. `longest_step_ms` is how long steering holds the worker in its
worst step, beside a forward pass that is a pause of so many milliseconds; waits for the lock of
Python are in it, not in `cpu_ms`, the most that it computes in one. `last_begins_ms` is when the
last request has all that it needs. Files are as the demo's: 30 layers, hidden size 576. `cold`: the
page cache was emptied before, which needs root. No engine is started.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from bench.report import publish
from steersman.steering.plan import PLAN_KEY, Limits, Plan, PlannedVector
from steersman.steering.plan.wire.loads import Load, LoadOrders, keys_of
from steersman.steering.vllm.worker.loading import VectorFiles
from steersman.steering.worker.loads.loads import Loads
from steersman.steering.worker.loads.reads import Reads
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.requests import SteeredRequests
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

LAYERS, HIDDEN, PROMPT = 30, 576, 100
POINTS = tuple(HookPoint("resid_post", layer) for layer in range(LAYERS))


def library_of(folder: Path, many: int) -> list[str]:
    """So many vectors in a library; their digests."""
    library = Library(folder)
    digests = []
    for n in range(many):
        generator = torch.Generator().manual_seed(n)
        tensors = {point: torch.randn(HIDDEN, generator=generator) for point in POINTS}
        entry, _ = library.add(write_vector(SteeringVector(tensors)), f"v{n}")
        digests.append(entry.digest)
    return digests


def worker_of(many: int) -> tuple[SteeredRequests, VectorBank]:
    """A worker's steered requests, with room for so many at once."""
    sizes = TableSizes(LAYERS, 4 * many, 8, many * LAYERS, HIDDEN, many * PROMPT)
    limits = Limits(LAYERS, many * LAYERS, 8, 32, 4, 10_000.0, 64, 8192, 16_384, 65_536)
    tables = Tables(sizes, torch.device("cpu"))
    bank = VectorBank(tables)
    return SteeredRequests(tables, limits, {p: p.layer for p in POINTS}, bank), bank


def emptied_page_cache() -> bool:
    """Whether the page cache could be emptied."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def in_the_step(folder: Path, digests: list[str]) -> dict[str, float]:
    """As it was before vectors were loaded ahead: all files are read in the step that needs
    them."""
    worker, bank = worker_of(len(digests))
    files, plans = VectorFiles(folder), plans_of(digests)
    began, computed = time.perf_counter(), time.thread_time()
    for n, digest in enumerate(digests):
        rows = [key for point in POINTS for key in keys_of((digest, *point, 1))]
        bank.place(rows, files.read(digest))
        worker.start(f"r{n}", {PLAN_KEY: plans[n]}, PROMPT)
    begin(worker, [f"r{n}" for n in range(len(digests))])
    return {
        "longest_step_ms": round(1e3 * (time.perf_counter() - began), 1),
        "cpu_ms": round(1e3 * (time.thread_time() - computed), 1),
    }


def ahead(folder: Path, digests: list[str], forward_s: float) -> dict[str, float]:
    """As it is: one crowd, from its arrival until all of it has begun."""
    worker, bank = worker_of(len(digests))
    loads = Loads(Reads(VectorFiles(folder).read), bank)
    plans = plans_of(digests)
    orders = LoadOrders((), tuple(Load(n, one, POINTS, 1) for n, one in enumerate(digests)))
    arrived, longest, most = time.perf_counter(), 0.0, 0.0
    begun, ready, steps = 0, list[int](), 0
    while begun < len(digests):
        began, computed = time.perf_counter(), time.thread_time()
        loads.take(orders)
        for n in ready:
            worker.start(f"r{n}", {PLAN_KEY: plans[n]}, PROMPT)
        begin(worker, [f"r{n}" for n in ready])
        begun += len(ready)
        held = time.perf_counter() - began
        time.sleep(forward_s)
        began = time.perf_counter()
        ready = [*loads.report().ready]
        longest = max(longest, held + time.perf_counter() - began)
        most = max(most, time.thread_time() - computed)
        orders, steps = LoadOrders((), ()), steps + 1
    return {
        "longest_step_ms": round(1e3 * longest, 1),
        "cpu_ms": round(1e3 * most, 1),
        "last_begins_ms": round(1e3 * (time.perf_counter() - arrived), 1),
        "steps": steps,
    }


def plans_of(digests: list[str]) -> list[str]:
    """A plan for each vector, as it travels."""
    vectors = [PlannedVector(digest, 0.5, POINTS, "all") for digest in digests]
    return [Plan((vector,), str(n)).to_json() for n, vector in enumerate(vectors)]


def begin(worker: SteeredRequests, names: list[str]) -> None:
    """The requests come into the batch, with their whole prompt."""
    worker.sync_batch({name: n for n, name in enumerate(names)})
    spans = [(name, PROMPT * n, PROMPT, 0) for n, name in enumerate(names)]
    worker.step(spans, PROMPT * len(names))
    assert not worker.failed, worker.failed


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrivals", type=int, default=256)
    parser.add_argument("--forward", type=float, default=5.0, metavar="MS")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found = defaultdict[str, list[dict[str, float]]](list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digests = library_of(folder, args.arrivals)
        for _ in range(args.rounds):
            for cache in ("warm", "cold"):
                for way in ("in_the_step", "ahead"):
                    if cache == "cold" and not emptied_page_cache():
                        continue
                    found[f"{way}, {cache}"].append(
                        in_the_step(folder, digests)
                        if way == "in_the_step"
                        else ahead(folder, digests, args.forward / 1e3)
                    )
    publish("arrivals", {"arrivals": args.arrivals, "forward_ms": args.forward, **found})


if __name__ == "__main__":
    main()
