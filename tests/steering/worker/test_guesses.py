"""Asynchronous speculative decoding: the host prepares a step before it is known how many drafts of
the one before were kept, and each token gets what its true position says."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.steering.plan import Plan
from tests.steering.worker.test_requests import PROMPT, Worker
from tests.support.steering.make import plan_of, planned, plans

DRAFTS = 3


def answer(worker: Worker, steps: int, seed: int) -> int:
    """Prefill and decode request "a" beside an unsteered one, checking what is added to each token.
    Returns where its true positions end."""
    chance = random.Random(seed)
    worker.requests.guessed = DRAFTS
    worker.check_step({"a": (0, 4), "plain": (0, 3)})
    worker.check_step({"plain": (3, 4), "a": (4, PROMPT)})
    start, rejected = PROMPT, 0
    for step in range(steps):
        batch = {"a": (start + rejected, start + rejected + 1 + DRAFTS), "plain": (step, step + 1)}
        names = sorted(batch, reverse=chance.random() < 0.5)
        worker.check_step({name: batch[name] for name in names}, {"a": rejected})
        kept = chance.randint(0, DRAFTS)
        start, rejected = start + 1 + kept, DRAFTS - kept
    return start


@settings(deadline=None, max_examples=40)
@given(plan=plans(PROMPT), seed=st.integers(0, 2**31))
def test_each_token_gets_what_its_true_position_says(plan: Plan, seed: int) -> None:
    worker = Worker(max_segments=16)
    worker.start("a", plan)
    worker.start("plain", None)
    end = answer(worker, 8, seed)
    assert worker.requests.failed == {}
    report = worker.requests.take_report()
    assert report is not None
    reach = report.reach["a"]
    assert end <= reach <= end + 2 * DRAFTS
    assert report.counts["a"] == plan.steered_within(0, reach, PROMPT)
    # Nothing is left of it in a step that the host knows.
    worker.requests.finish(["a"])
    worker.steered.clear()
    worker.requests.guessed = 0
    worker.check_step({"plain": (9, 20)})
    assert torch.equal(worker.tables.token_gain, torch.ones_like(worker.tables.token_gain))


def test_a_plan_that_is_the_same_behind_the_prompt_is_marked_by_the_host() -> None:
    worker = Worker(max_segments=8)
    worker.start("a", plan_of(planned(1, 0.5, (0, 2), "all"), planned(2, 1.0, (2,), "prompt")))
    answer(worker, 1, 0)
    worker.check_step({"a": (20, 24)}, {"a": 2})
    assert worker.tables.marked is not None
    worker.start("b", plan_of(planned(1, 0.5, (0, 2), (0, 21))))
    worker.check_step({"a": (20, 24), "b": (20, 24)}, {"b": 2})
    assert worker.tables.marked is None


@pytest.mark.parametrize("off", [-2, -1, DRAFTS + 1, DRAFTS + 5])
def test_a_position_that_cannot_be_ends_the_request(off: int) -> None:
    """vLLM's steps do not get there. If they do, the numbers are not finite, which the worker
    finds, instead of those of another token or another request."""
    worker = Worker(max_segments=8)
    worker.requests.guessed = DRAFTS
    ends = plan_of(planned(1, 0.5, (0, 2), (0, 30)))
    for name in ("before", "a", "behind"):
        worker.start(name, ends)
    batch = dict.fromkeys(("before", "a", "behind"), (30, 34))
    worker.step(batch, {"a": off, "before": 1, "behind": 1})
    added = worker.added(batch, "resid_post", 2)
    assert not added[4:8].isfinite().all()
    assert added[:4].isfinite().all()
    assert added[8:].isfinite().all()
