"""How long requests with vectors that are not in the bank hold a worker's steps: many arrive at
once, each with a vector of its own.

    python -m bench.engine.arrivals [--arrivals 256] [--forward 5]

Prints one JSON object. `longest_step_ms` is how long steering holds the worker in its worst step,
waits for the lock of Python included, beside a forward pass that is a pause of so many
milliseconds; `cpu_ms` is the most that it computes in one. `last_begins_ms` is when the last
request has all that it needs. Files are as the demo's: 30 layers, hidden size 576; `cold`
where the page cache was emptied first (needs root). No engine is started.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from steersman.steering.plan import PLAN_KEY, Limits, Plan, PlannedVector
from steersman.steering.plan.wire.loads import Load, LoadOrders
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
    limits = Limits(LAYERS, many * LAYERS, 8, 32, 4, 10_000.0, 64, 8192, 16_384)
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


def measured(folder: Path, digests: list[str], forward_s: float) -> dict[str, float]:
    """One crowd, from its arrival until all of it has begun."""
    worker, bank = worker_of(len(digests))
    loads = Loads(Reads(VectorFiles(folder).read), bank)
    plans = [
        Plan((PlannedVector(one, 0.5, POINTS, "all"),), str(n)) for n, one in enumerate(digests)
    ]
    orders = LoadOrders((), tuple(Load(n, one, POINTS, 1) for n, one in enumerate(digests)))
    arrived, longest, begun, ready, steps = time.perf_counter(), 0.0, 0, list[int](), 0
    most = 0.0
    while begun < len(digests):
        began, computed = time.perf_counter(), time.thread_time()
        loads.take(orders)
        names = [f"r{n}" for n in ready]
        for name, n in zip(names, ready, strict=True):
            worker.start(name, {PLAN_KEY: plans[n].to_json()}, PROMPT)
        worker.sync_batch({name: n for n, name in enumerate(names)})
        worker.step([(name, PROMPT * n, PROMPT, 0) for n, name in enumerate(names)], PROMPT)
        begun += len(names)
        held = time.perf_counter() - began
        time.sleep(forward_s)
        began = time.perf_counter()
        ready = [*loads.report().ready]
        longest = max(longest, held + time.perf_counter() - began)
        most = max(most, time.thread_time() - computed)
        orders, steps = LoadOrders((), ()), steps + 1
        assert not worker.failed, worker.failed
    last = time.perf_counter() - arrived
    return {
        "longest_step_ms": round(1e3 * longest, 1),
        "cpu_ms": round(1e3 * most, 1),
        "last_begins_ms": round(1e3 * last, 1),
        "steps": steps,
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrivals", type=int, default=256)
    parser.add_argument("--forward", type=float, default=5.0, metavar="MS")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digests = library_of(Path(folder), args.arrivals)
        rounds = {"warm": [], "cold": []}  # type: dict[str, list[dict[str, float]]]
        for _ in range(args.rounds):
            rounds["warm"].append(measured(Path(folder), digests, args.forward / 1e3))
            if emptied_page_cache():
                rounds["cold"].append(measured(Path(folder), digests, args.forward / 1e3))
    print(json.dumps({"arrivals": args.arrivals, "forward_ms": args.forward, **rounds}, indent=2))


if __name__ == "__main__":
    main()
