"""Dynamic requests in vLLM's own scheduler: lock-step, turns, ends, and any crowd."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan.dynamic import Dynamic
from steersman.steering.plan.receipt import BANK_FULL, UNAVAILABLE
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import BLOCK, VOCABULARY, Ask, companion, wrong
from tests.support.steering.make import digest
from tests.support.steering.scheduling import Loop, Setup

CROWDS = 25
MOST_CROWDS = 100
"""Of those that go on until a cancel has met a draft: a draft is seldom in flight where steps are
prepared ahead."""
"""Random crowds of each kind."""
STEPS = {n: 3 if n % 3 == 0 else 1 for n in range(6)}
"""Tensors of each vector there is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def vector(n: int, coefficient: float = 1.0, positions: Any = "generation") -> PlannedVector:
    terms = (HookPoint("resid_post", 2),)
    return PlannedVector(digest(n), coefficient, terms, positions, steps=STEPS[n])


def dynamic(*numbers: int, every: int = 1) -> Plan:
    settings = Dynamic(start=2.0, top_p=0.5, mean=True, every=every)
    return Plan(tuple(vector(n, 8.0) for n in numbers), receipt="r", dynamic=settings)


def prompt(tokens: int, seed: int = 0) -> tuple[int, ...]:
    """Those of one seed begin alike."""
    rng = Random(seed)
    return tuple(rng.randrange(VOCABULARY) for _ in range(tokens))


def plain(name: str, tokens: int, most: int, priority: int = 0) -> Ask:
    return Ask(name, prompt(tokens, seed=1), most, priority=priority)


def composed(name: str, tokens: int, most: int, *numbers: int, priority: int = 0) -> Ask:
    return Ask(name, prompt(tokens), most, dynamic(*(numbers or (1,))), priority=priority)


def both_runners(folder: Path, setup: Setup) -> Iterator[Loop]:
    yield from (Loop(folder, setup._replace(v2=v2)) for v2 in (False, True))


# A group alone


def steps_of(loop: Loop) -> list[dict[str, int]]:
    """What each step computed, until all have ended."""
    steps = []
    while loop.scheduler.has_requests():
        loop.step()
        steps.append(loop.scheduled)
    loop.check_answers()
    return steps


def test_companions_run_ahead_of_their_answer(folder: Path) -> None:
    """The first and the last token of an answer have no draft beside them. After a right one a
    token takes one step; after a wrong one two."""
    for loop in both_runners(folder, Setup(blocks=20, seats=4)):
        loop.add(composed("a", 3, 5, 1, 2))
        streams = dict.fromkeys([companion(loop.asks["a"], n) for n in range(3)], 1)
        first = [dict.fromkeys(streams, 3), {"a": 3}, streams]
        both = {**streams, "a": 1}
        assert steps_of(loop) == [*first, both, both, both, {"a": 1}, {}]
        assert loop.worker.drafts == {True: 3}
        loop.check_empty()
    for loop in both_runners(folder, Setup(blocks=20, seats=4)):
        loop.worker.draft = wrong
        loop.add(composed("a", 3, 5, 1, 2))
        missed = [both, streams]
        assert steps_of(loop) == [*first, *missed, *missed, *missed, {"a": 1}, {}]
        assert loop.worker.drafts == {False: 3}
        loop.check_empty()


def test_held_coefficients_wait_for_nobody(folder: Path) -> None:
    """After a wrong draft the companions go on beside their answer, until it needs their logits."""
    for loop in both_runners(folder, Setup(blocks=20, seats=4)):
        loop.worker.draft = wrong
        loop.add(Ask("a", prompt(3), 8, dynamic(1, every=3)))
        streams = dict.fromkeys([companion(loop.asks["a"], n) for n in range(2)], 1)
        both = {**streams, "a": 1}
        first = [dict.fromkeys(streams, 3), {"a": 3}, both, both, streams]
        assert steps_of(loop) == [*first, both, both, both, streams, both, both, {}]
        loop.check_empty()


def test_what_is_drafted_keys_no_block(folder: Path) -> None:
    """Another request over the wrong text finds none of it."""
    for loop in both_runners(folder, Setup(blocks=60, seats=8)):
        loop.worker.draft = wrong
        loop.add(composed("a", 3, 14, 1))
        loop.finish()
        text = (*loop.asks["a"].prompt, *loop.answers["a"])
        for n in range(len(text) - 1):
            loop.add(Ask(f"p{n}", (*text[: n + 1], wrong(text[n + 1]), 1, 2, 3, 4, 5), 2))
            loop.finish()
        loop.check_answers()
        loop.check_empty()


@pytest.mark.parametrize("salt", [None, "salt"])
def test_the_prompt_is_computed_once(folder: Path, salt: str | None) -> None:
    loop = Loop(folder, Setup(blocks=20, seats=4))
    ask = composed("a", 2 * BLOCK + 1, 2, 1, 2)._replace(salt=salt)
    loop.add(ask)
    first, *others = (companion(ask, n) for n in range(3))
    loop.step()
    assert loop.scheduled == {first: 2 * BLOCK + 1}
    loop.step()
    assert loop.scheduled == dict.fromkeys(others, 1)
    loop.step()
    assert loop.scheduled == {"a": 1}


def test_a_prompt_without_a_whole_block_waits_for_nobody(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=20, seats=4))
    loop.add(composed("a", BLOCK, 2, 1, 2))
    loop.step()
    assert len(loop.scheduled) == 3


def test_companions_are_as_their_answer(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=20, seats=4))
    ask = composed("a", 5, 2, priority=7)._replace(salt="salt")
    loop.add(ask)
    for n in range(2):
        one = loop.scheduler.requests[companion(ask, n)]
        assert (one.priority, one.cache_salt) == (7, "salt")
        assert one.arrival_time == loop.requests["a"].arrival_time
        assert list(one.all_token_ids) == list(ask.prompt)


# Ends


@pytest.mark.parametrize("stopped", [False, True])
def test_the_step_that_ends_an_answer_ends_its_companions(folder: Path, stopped: bool) -> None:
    for loop in both_runners(folder, Setup(blocks=20, seats=4)):
        ask = composed("a", 5, 9)
        loop.add(ask)
        while not loop.answers["a"]:
            loop.step()
        if stopped:  # At whatever token comes next.
            loop.requests["a"].sampling_params.stop_token_ids = list(range(VOCABULARY))
        while "a" not in loop.ended:
            loop.step()
        assert len(loop.answers["a"]) == (2 if stopped else 9)
        assert loop.scheduler.requests == {}
        assert len(loop.scheduler.steering_companions) == 0
        loop.check_empty()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("names", ["first", ["first"]])
def test_who_is_aborted_takes_its_companions_along(
    folder: Path, names: str | list[str], steps: int
) -> None:
    for loop in both_runners(folder, Setup(blocks=40, seats=8)):
        loop.add(composed("first", 9, 4))
        loop.add(composed("second", 9, 4, 2))
        for _ in range(steps):
            loop.step()
        ended = loop.abort(names)
        assert [one.request_id for one in ended] == ["first"]
        assert not {name for name in loop.scheduler.requests if name.startswith("first")}
        loop.finish()
        loop.check_answers()
        loop.check_empty()


def test_all_are_aborted_at_once(folder: Path) -> None:
    for loop in both_runners(folder, Setup(blocks=10, seats=6)):
        for ask in (composed("a", 5, 9), plain("b", 5, 9), composed("c", 9, 9, 1, 2)):
            loop.add(ask)
        for _ in range(4):
            loop.step()
        assert {one.request_id for one in loop.abort(None)} == {"a", "b", "c"}
        loop.check_answers()
        loop.check_empty()


@pytest.mark.parametrize("failing", ["a", "a-stream0", "a-stream1", "a-stream2"])
def test_what_cannot_be_steered_ends_the_answer(folder: Path, failing: str) -> None:
    for loop in both_runners(folder, Setup(blocks=40, seats=8)):
        loop.add(composed("a", 9, 6, 1, 2))
        loop.add(composed("b", 9, 6, 1))
        loop.worker.fail[failing] = "no such vector"
        loop.finish()
        refusal = loop.ended.pop("a").kv_transfer_params[PLAN_KEY]
        assert refusal == {"receipt": "r", "code": UNAVAILABLE, "message": "no such vector"}
        assert loop.answers.pop("a") == []
        del loop.asks["a"]
        loop.check_answers()
        loop.check_empty()


def test_who_is_turned_away_has_no_companions(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=40, seats=8, bank_rows=2, max_waiting=0))
    loop.add(composed("a", 3, 2, 1, 2))
    loop.add(composed("b", 3, 2, 4))
    assert companion(loop.asks["b"], 0) not in loop.scheduler.requests
    loop.finish()
    assert loop.ended.pop("b").kv_transfer_params[PLAN_KEY]["code"] == BANK_FULL
    del loop.asks["b"]
    loop.check_answers()
    loop.check_empty()


# Groups and others in each other's way


@pytest.mark.parametrize("most", [1, 2, 3])
def test_so_many_groups_run_at_once(folder: Path, most: int) -> None:
    loop = Loop(folder, Setup(blocks=90, seats=30, max_dynamic=most))
    for n in range(4):
        loop.add(composed(f"r{n}", 5, 3, 1 + n % 2))
    loop.add(plain("p", 5, 3))
    together = 0
    while loop.scheduler.has_requests():
        loop.step()
        of = loop.scheduler.steering_companions.answer_of
        groups = {of(one.request_id) for one in loop.scheduler.running} - {"p"}
        together = max(together, len(groups))
    assert together == most
    assert next(iter(loop.ended)) == "p"
    assert [name for name in loop.ended if name != "p"] == ["r0", "r1", "r2", "r3"]
    loop.check_answers()


def test_rows_of_the_tables_for_steps(folder: Path) -> None:
    """Of vectors with a tensor for each of many: companions need them too."""
    for loop in both_runners(folder, Setup(blocks=90, seats=30, max_dynamic=5, max_segments=1)):
        for n in range(5):
            loop.add(composed(f"r{n}", 5, 6, 0, 3))  # Nine rows each, of thirty-six.
        loop.add(Ask("static", prompt(5), 6, Plan((vector(0),))))
        while "r0" not in loop.ended:
            loop.step()
        assert loop.requests["r4"].num_computed_tokens == 0
        loop.finish()
        loop.check_answers()
        loop.check_empty()


def lose(loop: Loop, name: str) -> None:
    """Have vLLM take from a running request what it has."""
    one = loop.scheduler.requests[name]
    loop.scheduler.running.remove(one)
    loop.scheduler._preempt_request(one, 0.0)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_two_that_have_a_part_each(folder: Path, policy: str) -> None:
    """The last gives back what it has, and both come to their end."""
    for loop in both_runners(folder, Setup(blocks=40, seats=8, policy=policy, caching=False)):
        for ask in (composed("a", 8, 4), composed("b", 8, 4)):
            loop.add(ask)
        while not all(loop.answers.values()):
            loop.step()
        for ask in loop.asks.values():
            lose(loop, companion(ask, 0))
        pool = loop.scheduler.kv_cache_manager.block_pool
        elsewhere = pool.get_new_blocks(pool.get_num_free_blocks())
        while "a" not in loop.ended:
            loop.step()
        assert loop.requests["b"].num_preemptions == 1
        assert loop.requests["a"].num_preemptions == 0
        pool.free_blocks(elsewhere)
        loop.finish()
        loop.check_answers()
        loop.check_empty()


@pytest.mark.parametrize("priority", [0, 1, 2])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_an_ordinary_request_in_the_way(folder: Path, policy: str, priority: int) -> None:
    """It comes in while the group's prompt is computed and loses its blocks to it, or waits for
    blocks that the group has; and it may be before the group in the queue."""
    setup = Setup(blocks=7, seats=4, policy=policy, caching=False, long_prefill=BLOCK)
    for comes in range(8):
        for loop in both_runners(folder, setup):
            loop.add(composed("a", 2 * BLOCK, 1, priority=1))
            for _ in range(comes):
                loop.step()
            loop.add(plain("p", 5 * BLOCK, 1, priority=priority))
            loop.finish()
            loop.check_answers()
            loop.check_empty()


def test_an_urgent_group_behind_another(folder: Path) -> None:
    """vLLM takes from the less urgent one, even where that came first."""
    setup = Setup(blocks=13, seats=6, policy="priority", caching=False, long_prefill=3)
    for comes in range(12):
        for loop in both_runners(folder, setup):
            loop.add(composed("a", 13, 3, priority=1))
            for _ in range(comes):
                loop.step()
            loop.add(composed("b", 4, 2, priority=0))
            loop.finish()
            loop.check_answers()
            loop.check_empty()


def test_prompts_that_are_spread_out(folder: Path) -> None:
    """`--prefill-schedule-interval` counts steps that compute something, and there are none while
    an answer is held for its companions' prompts: that is no lack of room."""
    for loop in both_runners(folder, Setup(blocks=60, seats=12, prefill_interval=8)):
        loop.add(composed("a", 13, 4, 1, 2))
        loop.finish()
        loop.add(plain("p", 9, 5))
        loop.step()
        loop.add(composed("b", 13, 4, 1))
        loop.finish()
        loop.check_answers()
        loop.check_empty()


def test_a_pause_between_prompts_ends_where_nothing_else_runs(folder: Path) -> None:
    """As vLLM 0.33 counts it."""
    (loop, _) = both_runners(folder, Setup(blocks=20, seats=4))
    scheduler, companions = loop.scheduler, loop.scheduler.steering_companions
    scheduler.local_prefill_interval, scheduler.num_executed_steps = 8, 5
    for idle, last, left in ((False, 5, 5), (True, 5, -2), (True, -2, -2), (True, -8, -8)):
        companions._idle, scheduler.last_prefill_step = idle, last
        companions.before_step()
        assert scheduler.last_prefill_step == left


def test_what_does_not_fit_at_all_ends_in_error(folder: Path) -> None:
    """Should it have come this far."""
    for loop in both_runners(folder, Setup(blocks=6, seats=4)):
        loop.add(composed("a", 9, 5))
        loop.add(plain("p", 9, 5))
        loop.finish()
        assert loop.ended.pop("a").kv_transfer_params[PLAN_KEY]["code"] == UNAVAILABLE
        del loop.asks["a"]
        loop.check_answers()
        loop.check_empty()


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("state", ["PAUSED_NEW", "PAUSED_ALL"])
def test_a_pause_takes_nothing_from_anybody(folder: Path, state: str, policy: str) -> None:
    from vllm.v1.core.sched.interface import PauseState

    setup = Setup(blocks=20, seats=4, policy=policy, long_prefill=BLOCK)
    for after in range(8):
        for loop in both_runners(folder, setup):
            loop.add(composed("a", 9, 4))
            for _ in range(after):
                loop.step()
            loop.scheduler.set_pause_state(PauseState[state])
            for _ in range(12):
                loop.step()
            loop.scheduler.set_pause_state(PauseState.UNPAUSED)
            loop.finish()
            assert not loop.happened
            loop.check_answers()
            loop.check_empty()


@pytest.mark.parametrize("every", [2, 3, 4])
def test_prefills_at_every_nth_step_only(folder: Path, every: int) -> None:
    """As under data parallelism, with an interval between prefills."""
    for loop in both_runners(folder, Setup(blocks=40, seats=8, caching=False)):
        loop.add(composed("a", 9, 4))
        loop.add(composed("b", 9, 4, 2))
        while loop.scheduler.has_requests():
            loop.step(throttled=loop.steps % every != 0)
        assert not loop.happened
        loop.check_answers()
        loop.check_empty()


# Any crowd


def random_ask(rng: Random, name: str) -> Ask:
    """Anything that the limits allow; many prompts begin alike."""
    tokens = prompt(rng.choice([1, 2, 4, 5, 8, 9, 13, 17, 26]), rng.randrange(2))
    kind = rng.choice(["plain", "static", "dynamic", "dynamic"])
    plan = None
    if kind == "static":
        positions = rng.choice(["generation", "after_prompt", "prompt", "all"])
        numbers = rng.sample(sorted(STEPS), rng.choice([1, 1, 2]))
        plan = Plan(tuple(vector(n, rng.choice([0.0, 1.0, 2.0]), positions) for n in numbers))
    elif kind == "dynamic":
        numbers = rng.sample(sorted(STEPS), rng.choice([1, 1, 2, 2, 3, 4]))
        plan = dynamic(*numbers, every=rng.choice([1, 1, 2, 5]))
    stops = frozenset(rng.sample(range(VOCABULARY), rng.choice([0, 0, 6])))
    most = rng.choice([1, 2, 5, 9, 14])
    return Ask(name, tokens, most, plan, stops, priority=rng.randrange(3))


class Crowd:
    """Random requests that come and go at random times, with little more room than the largest
    needs alone."""

    def __init__(self, seed: int, folder: Path, **setup: Any) -> None:
        self.rng = rng = Random(seed)
        self.asks = [random_ask(rng, f"r{n}") for n in range(rng.randint(3, 14))]
        self.comes = sorted(rng.randint(0, 12) for _ in self.asks)
        self.going = rng.choice([0.0, 0.05])
        self.resets = rng.choice([0, 0, 2])
        seats = max(len(ask.streams) + 1 for ask in self.asks) + rng.choice([0, 1, 3])
        longest = rng.choice([28, 64])
        rows = max(len(ask.plan.bank_keys) if ask.plan else 1 for ask in self.asks)
        self.setup = Setup(
            blocks=1 + max(ask.blocks(longest) for ask in self.asks) + rng.choice([0, 0, 1, 4]),
            seats=seats,
            tokens=rng.choice([seats, 8, 16, 64]),
            longest=longest,
            long_prefill=rng.choice([0, 0, 3]),
            max_dynamic=rng.randint(1, 3),
            bank_rows=rows + rng.choice([0, 2]),
            **setup,
        )
        # Each alone would take fewer: for each stream its prompt in chunks of three, and two steps
        # a token.
        enough = 4 * sum(
            (len(ask.streams) + 2) * (len(ask.prompt) // 3 + 2) + 2 * ask.most for ask in self.asks
        )
        # Steps without anything, while the one before is under way, are counted too.
        self.loop = Loop(folder, self.setup, 100 + enough * (3 if self.setup.ahead else 1))
        chance = rng.choice([0.0, 0.0, 0.5, 1.0])
        self.loop.worker.draft = lambda token: wrong(token) if rng.random() < chance else token

    def play(self) -> Counter[str]:
        """Until nobody is left; what happened."""
        loop, rng = self.loop, self.rng
        coming = list(zip(self.comes, self.asks, strict=True))
        while coming or loop.scheduler.has_requests() or loop.under_way:
            while coming and coming[0][0] <= loop.steps:
                loop.add(coming.pop(0)[1])
            there = [name for name in loop.asks if name not in loop.aborted | loop.ended.keys()]
            gone = rng.sample(there, min(1, len(there))) if rng.random() < self.going else []
            for name in gone:
                loop.happened[f"aborted {loop.requests[name].status.name}"] += 1
            if self.resets and rng.random() < 0.05:
                self.resets -= 1
                loop.scheduler.reset_prefix_cache(reset_running_requests=True)
            if rng.random() < 0.5:
                loop.abort(gone)
                gone = []
            loop.step(gone)
        loop.check_answers()
        loop.check_empty()
        loop.happened += loop.drafts
        loop.happened["kept draft"] += loop.worker.drafts[True]
        loop.happened["wrong draft"] += loop.worker.drafts[False]
        return loop.happened


@pytest.mark.parametrize("ahead", [False, True], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("caching", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_everybody_is_answered_in_any_crowd(
    folder: Path, policy: str, caching: bool, v2: bool, ahead: bool
) -> None:
    happened = Counter[str]()
    for seed in range(MOST_CROWDS):
        if seed >= CROWDS and happened["aborted beside"]:
            break
        crowd = Crowd(seed, folder, policy=policy, caching=caching, v2=v2, ahead=ahead)
        happened += crowd.play()
    for who in ("ordinary", "companion", "answer"):
        assert happened[f"{who} preempted"] > 0
    for when in ("WAITING", "RUNNING"):
        assert happened[f"aborted {when}"] > 0
    assert min(happened["kept draft"], happened["wrong draft"]) > 50
    for what in ("aborted beside", "begins a block", "fills a block"):
        assert happened[what] > 0, what
