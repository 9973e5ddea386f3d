"""How long steering holds the engine core beyond its own compute: heavy plans, long prompts, and
crowds that wait for bank rows, in vLLM's own scheduler without an engine.

    python -m bench.engine.stall [--waiting 256 1000] [--prompt 32768] [--crowd 64]

Prints one JSON object. `crowd_ms` has what ours takes of the processor in one step at most when so
many requests with the largest plans arrive at once: `add` in the scheduler's process for all of
them, `fill` in a worker for the bank rows that are filled ahead of those who begin in one step, and
`begin` there for these themselves (plans read and checked, rows leased and written). `add_ms` is
what one request costs before it queues (its plan read, the keys of its blocks, its rows), beside
the same prompt unsteered; `pass_ms` the median pass of the scheduler over so many that wait.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.vllm.config import limits_of
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.requests import SteeredRequests
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import Ask
from tests.support.steering.loading import place
from tests.support.steering.scheduling import Loop, Setup

BLOCK = 16
ROWS = 4096


def vector(n: int, terms: int, schedule: int = 0, steps: int = 1) -> PlannedVector:
    """A vector at so many places."""
    rng = Random(n)
    places = tuple(sorted(HookPoint(f"site{k % 3}", k // 3) for k in range(terms)))
    numbers = tuple(rng.randrange(-99, 99) / 64 for _ in range(schedule))
    return PlannedVector(f"sha256:{n:064x}", 1.0, places, "all", numbers, steps, hold=True)


PLANS: dict[str, Plan | None] = {
    "unsteered": None,
    "1 x 2": Plan((vector(0, 2),)),
    "8 x 90": Plan(tuple(vector(n, 90) for n in range(8))),
    "8 x 90, schedules of 1024": Plan(tuple(vector(n, 90, 1024) for n in range(8))),
    "1 x 60, 64 steps": Plan((vector(0, 60, steps=64),)),
}


def request(
    name: str, plan: Plan | None, prompt: list[int], hasher: Callable[[Any], Any] | None
) -> Any:
    """vLLM's request, as its engine core makes it."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    extra = {PLAN_KEY: plan.to_json()} if plan is not None else None
    params = SamplingParams(temperature=0, max_tokens=4, extra_args=extra)
    return Request(name, prompt, params, None, block_hasher=hasher)


def added(folder: Path, tokens: int) -> dict[str, float]:
    """Milliseconds that one request costs before it queues."""
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    init_none_hash(sha256)
    hasher = get_request_block_hasher(BLOCK, sha256)
    scheduler = Loop(folder, Setup(blocks=9, seats=4, bank_rows=ROWS, max_steps=64)).scheduler
    found = {}
    for name, plan in PLANS.items():
        taken = []
        for n in range(3):
            prompt = [Random(n).randrange(64) for _ in range(tokens)]
            began = time.perf_counter()
            scheduler.add_request(request(f"{name}{n}", plan, prompt, hasher))
            taken.append(time.perf_counter() - began)
        found[name] = round(1e3 * median(taken), 2)
    return found


def passed(folder: Path, waiting: int, policy: str) -> float:
    """Milliseconds of a pass over so many that wait for 3,840 rows each, while one runs."""
    setup = Setup(
        blocks=99,
        seats=9,
        bank_rows=ROWS,
        max_waiting=waiting,
        policy=policy,
        max_steps=64,
        caching=False,
    )
    loop = Loop(folder, setup)
    plan = Plan((vector(0, 10, steps=64),))
    scheduler = loop.scheduler
    scheduler.add_request(request("runs", plan, [1, 2, 3], None))
    scheduler.update_from_output(output := scheduler.schedule(), loop.worker.run(output))
    for n in range(waiting):
        plan = Plan((vector(1 + n, 60, steps=64),))
        scheduler.add_request(request(f"r{n}", plan, [1, 2, 3], None))
    taken = []
    for _ in range(9):
        began = time.perf_counter()
        scheduler.schedule()
        taken.append(time.perf_counter() - began)
    return round(1e3 * median(taken), 3)


CROWDS: dict[str, Callable[[int], Plan]] = {
    "8 x 90": lambda n: Plan(tuple(vector(k, 90) for k in range(8)), str(n)),
    "8 x 90, schedules of 1024": lambda n: Plan(
        tuple(vector(8 * n + k, 90, 1024) for k in range(8)), str(n)
    ),
    "1 x 64, 64 steps": lambda n: Plan((vector(0, 64, steps=64),), str(n)),
    "1 x 64, each its own": lambda n: Plan((vector(n, 64),), str(n)),
}
"""The plan of each request of a crowd."""


def crowd(folder: Path, many: int, make: Callable[[int], Plan]) -> dict[str, float]:
    """Milliseconds of the processor for a crowd that arrives at once."""
    from vllm.v1.request import RequestStatus

    setup = Setup(
        blocks=9999,
        seats=many,
        tokens=8192,
        longest=1024,
        bank_rows=ROWS,
        max_steps=64,
        max_segments=4,
        caching=False,
    )
    loop = Loop(folder, setup)
    sizes = TableSizes(90, 4 * many + 9 * 68, 8, ROWS, 576, 8192)
    places = [HookPoint(f"site{k}", layer) for k in range(3) for layer in range(30)]
    limits = replace(
        limits_of(loop.scheduler.vllm_config), num_layers=30, sites=("site0", "site1", "site2")
    )
    tables = Tables(sizes, torch.device("cpu"))
    bank = VectorBank(tables)
    worker = SteeredRequests(tables, limits, {place: n for n, place in enumerate(places)}, bank)
    tensor = torch.ones(576) if make(0).vectors[0].steps == 1 else torch.ones(64, 576)
    requests = [request(f"r{n}", make(n), [1] * 100, None) for n in range(many)]
    began = time.thread_time()
    for one in requests:
        loop.scheduler.add_request(one)
    add, fill, begin, most, steps, seen = time.thread_time() - began, 0.0, 0.0, 0, 0, 0
    while seen < many:
        output = loop.scheduler.schedule()
        new = output.scheduled_new_reqs
        began = time.thread_time()
        for one in new:
            plan = Plan.of(one.sampling_params.extra_args)
            assert plan is not None
            place(bank, plan, lambda _, wanted: dict.fromkeys(wanted, tensor))
        fill = max(fill, time.thread_time() - began)
        began = time.thread_time()
        for one in new:
            worker.start(one.req_id, one.sampling_params.extra_args, 100)
        worker.sync_batch({one.req_id: n for n, one in enumerate(new)})
        worker.step([(one.req_id, 100 * n, 100, 0) for n, one in enumerate(new)], 100 * len(new))
        begin = max(begin, time.thread_time() - began)
        assert not worker.failed, worker.failed
        most, steps, seen = max(most, len(new)), steps + 1, seen + len(new)
        names = [one.req_id for one in new]
        loop.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
        worker.finish(names)
    found = {"add": add, "fill": fill, "begin": begin}
    return {**{k: round(1e3 * v, 1) for k, v in found.items()}, "at_once": most, "steps": steps}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 256, 1000])
    parser.add_argument("--prompt", type=int, default=32_768)
    parser.add_argument("--crowd", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Loop(Path(folder), Setup(blocks=9, seats=4)).add(Ask("first", (1, 2, 3), 1))
        found = {
            "prompt_tokens": args.prompt,
            "crowd_ms": {
                name: crowd(Path(folder), args.crowd, make) for name, make in CROWDS.items()
            },
            "add_ms": added(Path(folder), args.prompt),
            "pass_ms": {
                policy: {str(n): passed(Path(folder), n, policy) for n in args.waiting}
                for policy in ("fcfs", "priority")
            },
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
