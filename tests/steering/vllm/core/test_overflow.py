"""What a request that is not finite leaves in the cache, in vLLM's own scheduler."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan.dynamic import Dynamic
from steersman.steering.plan.receipt import NOT_FINITE
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import BLOCK, OVERFLOWING, VOCABULARY, Ask, companion
from tests.support.steering.make import digest
from tests.support.steering.scheduling import Loop, Setup

CROWDS = 40
"""Random crowds of each kind."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def prompt(tokens: int, seed: int = 0) -> tuple[int, ...]:
    rng = Random(seed)
    return tuple(rng.randrange(VOCABULARY) for _ in range(tokens))


def vector(name: str, positions: Any) -> PlannedVector:
    return PlannedVector(name, 1.0, (HookPoint("resid_post", 2),), positions)


def attack(name: str, tokens: int, most: int, positions: Any = "all", seed: int = 0) -> Ask:
    return Ask(name, prompt(tokens, seed), most, Plan((vector(OVERFLOWING, positions),), "r"))


def composed(name: str, tokens: int, most: int, *digests: str) -> Ask:
    settings = Dynamic(start=2.0, top_p=0.5, mean=True)
    vectors = tuple(vector(one, "generation") for one in digests)
    return Ask(name, prompt(tokens), most, Plan(vectors, "r", settings))


def refused(loop: Loop, name: str) -> str:
    """Why an answer ended in error; it is taken off the answers to check."""
    code: str = loop.ended.pop(name).kv_transfer_params[PLAN_KEY]["code"]
    del loop.asks[name]
    return code


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("positions", ["all", "prompt", "generation", "after_prompt", (5, 7)])
def test_blocks_are_clean_before_somebody_gets_them(
    folder: Path, positions: Any, caching: bool, v2: bool
) -> None:
    """There is room for one of them only, so the second gets what the first had."""
    loop = Loop(folder, Setup(blocks=5, seats=2, caching=caching, v2=v2))
    loop.add(attack("a", 9, 6, positions))
    loop.add(Ask("b", prompt(9, 1), 6))
    loop.finish()
    assert loop.worker.cleaned
    assert len(loop.answers["a"]) == (1 if positions == "after_prompt" else 0)
    assert refused(loop, "a") == NOT_FINITE
    loop.check_answers()
    loop.check_empty()


def test_what_lies_before_the_steering_is_everybodys_and_stays(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=20, seats=2))
    loop.add(attack("a", 3 * BLOCK, 6, "generation"))
    loop.finish()
    assert loop.worker.cleaned == 1
    assert refused(loop, "a") == NOT_FINITE
    loop.add(Ask("b", prompt(3 * BLOCK + 1), 2))
    loop.step()
    assert loop.scheduled == {"b": BLOCK + 1}
    loop.finish()
    loop.check_answers()


def test_who_shares_its_blocks_ends_as_it_does(folder: Path) -> None:
    """In one step, out of the prefix cache."""
    loop = Loop(folder, Setup(blocks=14, seats=8))
    for n in range(8):
        loop.add(attack(f"r{n}", 3 * BLOCK + min(n, 1), 6))
    loop.step()
    assert loop.scheduled["r7"] == 1
    assert {refused(loop, f"r{n}") for n in range(8)} == {NOT_FINITE}
    loop.check_empty()
    for n in range(8):  # None fills a block.
        loop.add(Ask(f"v{n}", prompt(1, n), 2))
    loop.finish()
    loop.check_answers()


@pytest.mark.parametrize("v2", [False, True])
def test_a_client_that_leaves_meanwhile_leaves_nothing(folder: Path, v2: bool) -> None:
    loop = Loop(folder, Setup(blocks=5, seats=2, v2=v2))
    loop.add(attack("a", 9, 6))
    loop.step(gone={"a"})
    loop.add(Ask("b", prompt(9, 1), 6))
    loop.finish()
    del loop.asks["a"]
    loop.aborted.clear()
    loop.check_answers()
    loop.check_empty()


@pytest.mark.parametrize("v2", [False, True])
def test_a_companion_that_overflows_ends_its_answer(folder: Path, v2: bool) -> None:
    loop = Loop(folder, Setup(blocks=18, seats=5, v2=v2))
    loop.add(composed("a", 9, 6, digest(1), OVERFLOWING))
    loop.finish()
    assert refused(loop, "a") == NOT_FINITE
    assert companion(composed("a", 9, 6), 1) not in loop.scheduler.requests
    loop.add(Ask("b", prompt(60, 1), 4))
    loop.finish()
    loop.check_answers()
    loop.check_empty()


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("seed", range(CROWDS))
def test_any_crowd(folder: Path, seed: int, caching: bool, v2: bool) -> None:
    """Attacks and victims, prompts in common, too little room, clients that go."""
    rng = Random(seed)
    setup = Setup(
        blocks=rng.randrange(18, 30), seats=rng.randrange(2, 6), tokens=rng.choice((6, 16, 64)),
        caching=caching, v2=v2, bank_rows=rng.randrange(2, 6),
    )  # fmt: skip
    loop = Loop(folder, setup, enough=2000)
    attacks = set()
    for n in range(30):
        tokens, most, start = rng.randrange(2, 24), rng.randrange(1, 9), rng.randrange(3)
        kind = rng.random()
        if kind < 0.35:
            positions = rng.choice(("all", "prompt", "generation", "after_prompt", (0, 1)))
            loop.add(attack(f"r{n}", tokens, most, positions, start))
            attacks.add(f"r{n}")
        elif kind < 0.5 and setup.seats >= 4:
            loop.add(composed(f"r{n}", min(tokens, 9), most, digest(1), OVERFLOWING)) if (
                rng.random() < 0.5
            ) else loop.add(composed(f"r{n}", min(tokens, 9), most, digest(1), digest(2)))
            if OVERFLOWING in {v.digest for v in loop.asks[f"r{n}"].plan.vectors}:  # type: ignore[union-attr]
                attacks.add(f"r{n}")
        else:
            plan = Plan((vector(digest(n % 3), "all"),), "r") if kind < 0.7 else None
            loop.add(Ask(f"r{n}", prompt(tokens, start), most, plan))
        for _ in range(rng.randrange(4)):
            there = sorted(loop.asks.keys() - loop.ended.keys() - loop.aborted)
            loop.step(gone={rng.choice(there)} if there and rng.random() < 0.2 else ())
    loop.finish()
    for name in attacks - loop.aborted:
        ended = loop.ended[name]
        if ended.kv_transfer_params is not None and isinstance(
            ended.kv_transfer_params.get(PLAN_KEY), dict
        ):
            assert refused(loop, name) == NOT_FINITE
        else:  # It ended before the first token that would have been steered was computed.
            assert loop.asks[name].most == 1
    loop.check_answers()
    loop.check_empty()
