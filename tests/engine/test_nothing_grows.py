"""Invariant 7: requests leave nothing behind. The larger count is in tests/steering."""

import psutil

from steering.plan import Plan
from tests.engine.conftest import Shelf
from tests.engine.engine import Ask, Engine

ROUNDS, REQUESTS = 8, 48
MIB = 2**20


def test_requests_with_strengths_of_their_own_leave_nothing_behind(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    process = psutil.Process()
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
    before, memory = engine.status(), []
    for _ in range(ROUNDS):
        serve()
        memory.append(process.memory_info().rss)
    assert engine.status() == before
    assert (before["requests"], before["bank_rows_used"]) == (0, 0)
    assert sum(memory[-3:]) / 3 - sum(memory[:3]) / 3 < 4 * MIB
