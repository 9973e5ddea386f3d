"""Invariant 4: how tokens are batched does not matter."""

from dataclasses import replace

import pytest

from steersman.steering.plan import Plan
from tests.engine.conftest import Shelf
from tests.support.engine.engine import Answer, Ask, Engine, furthest

NEW_TOKENS = 10
CLOSE = 1e-4


@pytest.fixture(scope="module")
def asks(shelf: Shelf, text_ids: list[int]) -> list[Ask]:
    """Steered by every rule and not at all, on prompts of one to 150 tokens."""
    plans = [
        shelf.plan(1, 0.5, (8, 16)),
        None,
        shelf.plan(2, 0.4, (12,), "all", "attn_out"),
        shelf.plan(1, -0.4, (5, 20), "prompt"),
        Plan(
            (
                shelf.planned(2, 0.6, (10,), (30, 47)),
                shelf.planned(3, 0.3, (10, 14), "after_prompt"),
                shelf.planned(1, 0.2, (10,), (-3, 10_000), "mlp_out"),
            )
        ),
        None,
        shelf.plan(3, 0.5, (28,), "after_prompt", "mlp_out"),
    ]
    lengths = (150, 120, 97, 33, 64, 1, 32)
    return [
        Ask(tuple(text_ids[11 * n : 11 * n + length]), plan, NEW_TOKENS)
        for n, (plan, length) in enumerate(zip(plans, lengths, strict=True))
    ]


@pytest.fixture(scope="module")
def expected(engine: Engine, asks: list[Ask]) -> list[Answer]:
    """Each request alone, its prompt in one piece, on the shared engine with an empty cache."""
    answers = []
    for ask in asks:
        engine.forget()
        answers += engine.ask(ask)
    return answers


def assert_same(answers: list[Answer], expected: list[Answer]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.tokens == wanted.tokens
        assert furthest(answer.logprobs, wanted.logprobs) <= CLOSE


def test_all_in_one_batch(engine: Engine, asks: list[Ask], expected: list[Answer]) -> None:
    engine.forget()
    assert_same(engine.ask(*asks), expected)


def test_prompts_from_the_prefix_cache(
    engine: Engine, asks: list[Ask], expected: list[Answer]
) -> None:
    engine.forget()
    engine.ask(*asks)
    answers = engine.ask(*asks)
    assert [a.cached for a in answers] == [(len(ask.prompt) - 1) // 32 * 32 for ask in asks]
    assert_same(answers, expected)


def test_prompts_in_chunks_of_sixteen_tokens(
    cramped: Engine, asks: list[Ask], expected: list[Answer]
) -> None:
    answers = [answer for ask in asks[:4] for answer in cramped.ask(ask)]
    assert cramped.metric("vllm:num_preemptions") == 0
    assert_same(answers, expected[:4])


@pytest.fixture(scope="module")
def growing(asks: list[Ask]) -> list[Ask]:
    """Requests that need a block each when they start, and two before they end."""
    return [
        replace(ask, prompt=asks[n % 3].prompt[:25] + asks[0].prompt[:n], tokens=30)
        for n, ask in enumerate([*asks, asks[0]])
        if not (ask.plan and len(ask.plan.vectors) > 1)
    ]


def test_preempted_and_resumed(engine: Engine, cramped: Engine, growing: list[Ask]) -> None:
    engine.forget()
    expected = engine.ask(*growing)
    cramped.ask(Ask((1,), tokens=1))
    before = cramped.status()
    answers = cramped.ask(*growing)
    assert cramped.metric("vllm:num_preemptions") >= 2
    assert_same(answers, expected)
    assert cramped.receipts(*growing) == engine.receipts(*growing)
    cramped.ask(Ask((1,), tokens=1))
    left = {"vectors_resident": 0, "bank_rows_resident": 0}
    assert {**cramped.status(), **left} == {**before, **left}


def test_steered_tokens_are_counted_once_whatever_the_batching(
    engine: Engine, cramped: Engine, asks: list[Ask]
) -> None:
    """Counts of the receipt: from the plan, the prompt and the answer alone."""
    engine.forget()
    for one in (engine, cramped):
        for ask, notes in zip(asks, one.receipts(*asks), strict=True):
            if ask.plan is None:
                assert notes == []
                continue
            (counted,) = notes
            # The last token of an answer is sampled, never computed.
            computed = len(ask.prompt) + NEW_TOKENS - 1
            assert list(counted) == [
                sum(
                    max(0, min(s.stop, computed) - s.start)
                    for s in ask.plan.segments(len(ask.prompt))
                    if n in s.active
                )
                for n in range(len(ask.plan.vectors))
            ]
