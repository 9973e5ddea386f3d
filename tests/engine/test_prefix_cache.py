"""Invariant 3: the prefix cache never mixes what was steered differently."""

import pytest
from vllm.inputs import TokensPrompt

from steersman.steering.plan import Plan
from tests.engine.conftest import Shelf
from tests.support.engine.engine import Answer, Ask, Engine, furthest, parameters
from tests.support.engine.engine import answer as to_answer

BLOCK = 32
"""The engine's block size in tokens; only whole blocks are shared."""
PROMPT = 100
REPLY = 40
CLOSE = 5e-5
"""Tokens from the cache and tokens computed anew were batched differently: that is float32's noise
here. What mixing costs is thousands of times more."""


@pytest.fixture(autouse=True)
def empty_cache(engine: Engine) -> None:
    engine.forget()


@pytest.fixture(scope="module")
def prompt(text_ids: list[int]) -> tuple[int, ...]:
    return tuple(text_ids[:PROMPT])


def whole_blocks(tokens: int) -> int:
    return tokens // BLOCK * BLOCK


def ask_one(
    engine: Engine, prompt: tuple[int, ...], plan: Plan | None = None, tokens: int = 4
) -> Answer:
    (answer,) = engine.ask(Ask(prompt, plan, tokens))
    return answer


def on_an_engine_that_never_steered(
    engine: Engine, prompt: tuple[int, ...], plan: Plan | None = None
) -> Answer:
    engine.forget()
    answer = ask_one(engine, prompt, plan)
    assert answer.cached == 0
    return answer


def assert_same(answer: Answer, fresh: Answer) -> None:
    assert answer.tokens == fresh.tokens
    assert furthest(answer.logprobs, fresh.logprobs) <= CLOSE


@pytest.mark.parametrize(
    ("positions", "shared"),
    [
        ("generation", whole_blocks(PROMPT - 1)),
        ("after_prompt", whole_blocks(PROMPT)),
        ("prompt", 0),
        ("all", 0),
        ((40, 45), 32),
        ((-1, PROMPT), whole_blocks(PROMPT - 1)),
    ],
)
def test_a_steered_answer_replayed_unsteered(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...], positions: str, shared: int
) -> None:
    """The next turn reuses the blocks before the first steered token, and not one more."""
    steered = ask_one(engine, prompt, shelf.plan(1, 0.6, (10, 14), positions), REPLY)
    history = prompt + steered.tokens
    replayed = ask_one(engine, history)
    assert replayed.cached == shared
    assert_same(replayed, on_an_engine_that_never_steered(engine, history))


def test_the_replay_is_bit_identical_where_the_batches_are(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    """Both times the prompt was asked before, so both times the same tokens are computed."""
    steered = ask_one(engine, prompt, shelf.plan(1, 0.6, (10, 14), "generation"), REPLY)
    history = prompt + steered.tokens
    replayed = ask_one(engine, history)
    engine.forget()
    ask_one(engine, prompt, tokens=1)
    assert replayed == ask_one(engine, history)


def test_what_mixing_would_have_cost(engine: Engine, shelf: Shelf, prompt: tuple[int, ...]) -> None:
    """The same history, its answer steered: what an engine without our keys would compute from."""
    plan = shelf.plan(1, 0.6, (10, 14), "generation")
    history = prompt + ask_one(engine, prompt, plan, REPLY).tokens
    steered_history = shelf.plan(1, 0.6, (10, 14), (PROMPT - 1, len(history) - 1))
    mixed = on_an_engine_that_never_steered(engine, history, steered_history)
    pure = on_an_engine_that_never_steered(engine, history)
    assert furthest(mixed.logprobs[:1], pure.logprobs[:1]) > 1000 * CLOSE


def test_the_same_steering_reuses_its_blocks(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    plan = shelf.plan(1, 0.6, (10, 14), "all")
    steered = ask_one(engine, prompt, plan, REPLY)
    history = prompt + steered.tokens
    replayed = ask_one(engine, history, plan)
    # The last token was sampled but never computed.
    assert replayed.cached == whole_blocks(len(history) - 1)
    assert_same(replayed, on_an_engine_that_never_steered(engine, history, plan))


def test_the_same_effect_in_other_words_reuses_blocks(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    """A later turn names the steered stretch of its history as a range."""
    steered = ask_one(engine, prompt, shelf.plan(1, 0.6, (10, 14), "after_prompt"), REPLY)
    history = prompt + steered.tokens
    named = shelf.plan(1, 0.6, (10, 14), (PROMPT, len(history)))
    replayed = ask_one(engine, history, named)
    assert replayed.cached == whole_blocks(len(history) - 1)
    assert_same(replayed, on_an_engine_that_never_steered(engine, history, named))


def test_the_prompt_before_the_first_steered_token_is_shared_both_ways(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    plan = shelf.plan(1, 0.6, (10, 14), "generation")
    ask_one(engine, prompt)
    unsteered_hits = ask_one(engine, prompt).cached
    assert unsteered_hits == whole_blocks(PROMPT - 1)
    assert ask_one(engine, prompt, plan).cached == unsteered_hits
    assert ask_one(engine, prompt, shelf.plan(2, -3.0, (1,), "after_prompt")).cached == (
        unsteered_hits
    )
    engine.forget()
    ask_one(engine, prompt, plan)
    assert ask_one(engine, prompt).cached == unsteered_hits


@pytest.mark.parametrize(
    "other",
    [
        lambda shelf: None,
        lambda shelf: shelf.plan(1, 0.6000001, (10, 14), "all"),
        lambda shelf: shelf.plan(1, -0.6, (10, 14), "all"),
        lambda shelf: shelf.plan(2, 0.6, (10, 14), "all"),
        lambda shelf: shelf.plan(1, 0.6, (10,), "all"),
        lambda shelf: shelf.plan(1, 0.6, (10, 14), "all", "mlp_out"),
        lambda shelf: shelf.plan(1, 0.6, (10, 14), (1, PROMPT)),
    ],
    ids=["none", "strength", "sign", "vector", "layers", "site", "positions"],
)
def test_steered_from_the_start_is_shared_with_nobody_else(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...], other: object
) -> None:
    plan = shelf.plan(1, 0.6, (10, 14), "all")
    different = other(shelf)  # type: ignore[operator]
    ask_one(engine, prompt, plan)
    answer = ask_one(engine, prompt, different)
    assert answer.cached == 0
    assert_same(answer, on_an_engine_that_never_steered(engine, prompt, different))


def test_hits_of_steered_traffic_equal_those_of_unsteered_traffic(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """A shared system prompt, many users, each steered in a way of its own."""

    def hits(plan_of_user: dict[int, Plan]) -> int:
        engine.forget()
        answers = [
            ask_one(
                engine,
                tuple(text_ids[:96] + text_ids[200 + 7 * user : 207 + 7 * user]),
                plan_of_user.get(user),
                tokens=2,
            )
            for user in range(5)
        ]
        return sum(answer.cached for answer in answers)

    unsteered = hits({})
    assert unsteered == 4 * 96
    assert hits({n: shelf.plan(n % 3, 0.1 * (n + 1), (n,)) for n in range(5)}) == unsteered


def test_a_request_that_failed_leaves_nothing_in_the_cache(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    """It ran unsteered for one step before it was ended, under the key of its steering."""
    plan = shelf.plan(40, 0.6, (10, 14), "all")
    with shelf.vanishing(40) as vanish:
        engine.llm.enqueue(
            TokensPrompt(prompt_token_ids=list(prompt)), parameters(Ask(prompt, plan))
        )
        vanish()
        (failed,) = engine.llm.wait_for_completion(use_tqdm=False)
    assert to_answer(failed).finish_reason == "error"
    again = ask_one(engine, prompt, plan)
    fresh = on_an_engine_that_never_steered(engine, prompt, plan)
    assert again.cached == 0
    assert_same(again, fresh)


def test_whoever_shared_blocks_with_a_request_that_failed_is_not_misled(
    engine: Engine, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    """Two requests start in one step. The first one's plan fails for a vector of its answer; the
    second is steered in the prompt as the first would have been, and finds its blocks cached."""
    both = shelf.plan(1, 0.6, (10, 14), "all")
    doomed = Plan((*both.vectors, shelf.planned(41, 0.6, (10,), "after_prompt")))
    asks = [Ask(prompt, doomed), Ask(prompt, both)]
    with shelf.vanishing(41) as vanish:
        engine.llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(prompt))] * 2, [parameters(ask) for ask in asks]
        )
        vanish()
        failed, other = map(to_answer, engine.llm.wait_for_completion(use_tqdm=False))
    assert failed.finish_reason == "error"
    fresh = on_an_engine_that_never_steered(engine, prompt, both)
    # To end it too is right; to answer from the other's blocks is not.
    if other.finish_reason != "error":
        assert_same(other, fresh)
