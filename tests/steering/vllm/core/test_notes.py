"""Drafts of speculative decoding: steered as the rest, counted only where the answer keeps them."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan import PLAN_KEY, Plan
from steersman.steering.vllm.core.notes import without_drafts
from tests.steering.worker.test_requests import PROMPT, Worker
from tests.support.steering.make import planned

PLAN = Plan(
    (planned(1, positions="generation"), planned(2, positions="all"), planned(3, positions=(2, 9)))
)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8), st.integers(1, 30))
def test_counts_are_those_of_an_engine_without_drafts(
    steps: list[tuple[int, int]], longest: int
) -> None:
    """Each step has so many drafts, of which so many (at most) are right; the answer ends somewhere
    within a step's tokens when it is `longest`."""
    worker = Worker()
    worker.start("r", PLAN)
    computed, known = 0, PROMPT
    for drafts, right in [(0, 0), *steps]:
        worker.step({"r": (computed, known + drafts)})
        report = worker.requests.take_report()
        assert report is not None
        known += 1 + min(right, drafts)
        computed = known - 1
        known = min(known, PROMPT + longest)
        request: Any = SimpleNamespace(
            num_tokens=known,
            num_prompt_tokens=PROMPT,
            sampling_params=SimpleNamespace(extra_args={PLAN_KEY: PLAN.to_json()}),
        )
        note = without_drafts(report.notes["r"], report.reach["r"], request)
        assert note.steered_tokens == PLAN.steered_within(0, known - 1, PROMPT)
        if known == PROMPT + longest:
            break
