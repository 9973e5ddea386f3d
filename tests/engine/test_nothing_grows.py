"""Invariant 7: requests leave nothing behind. The larger count is in tests/steering."""

import gc
import sys

import psutil

from steersman.steering.plan import Plan
from tests.engine.conftest import Shelf
from tests.support.engine.engine import Ask, Engine

ROUNDS, REQUESTS = 8, 48
BYTES, BLOCKS = 2048, 4
"""What a request may leave behind of the C heap and of Python's: vLLM's own histograms and interned
numbers come to a third of this and settle; a leaked request has dozens of blocks."""


def test_requests_with_strengths_of_their_own_leave_nothing_behind(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    counter = 0

    def serve() -> None:
        nonlocal counter
        asks = []
        for n in range(REQUESTS):
            counter += 1
            c = 1e-4 * counter
            plan = Plan(
                (
                    shelf.planned(n % 3, c, (n % 30, (n + 9) % 30), "all"),
                    shelf.planned(3, -c, (4,), "after_prompt"),
                )
            )
            asks.append(Ask(tuple(text_ids[n : n + 6]), plan, tokens=2))
        assert {answer.finish_reason for answer in engine.ask(*asks)} == {"length"}
        # vLLM tells its workers of finished requests with the next step.
        engine.ask(Ask((1,), tokens=1))

    # What a first use allocates is not growth: all 3 * 30 + 1 rows are resident after two rounds.
    serve()
    serve()
    before, (heap, blocks) = engine.status(), in_use()
    for _ in range(ROUNDS):
        serve()
    assert engine.status() == before
    assert (before["requests"], before["bank_rows_used"]) == (0, 0)
    heap_after, blocks_after = in_use()
    assert heap_after - heap < ROUNDS * REQUESTS * BYTES
    assert blocks_after - blocks < ROUNDS * REQUESTS * BLOCKS


def in_use() -> tuple[int, int]:
    """Bytes of the C heap, tensors among them, and blocks of Python's that something still holds.
    Not what is resident: that jumps by a buffer whenever the allocator finds no gap for one."""
    gc.collect()
    native = psutil.heap_info()
    return native.heap_used + native.mmap_used, sys.getallocatedblocks()
