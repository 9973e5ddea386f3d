"""Isolation from numbers: a stream that overflows ends its own request, and harms nobody's."""

from collections.abc import Iterator

import pytest
import torch

from steersman.steering.plan import Plan, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import HIDDEN, Shelf
from tests.support.engine.engine import Ask, Engine

HUGE = 3e38
LENGTHS = (9, 40, 3, 70)


@pytest.fixture(scope="module")
def huge(shelf: Shelf) -> str:
    """Digest of a vector whose first addition leaves nothing of the stream finite."""
    v = torch.full((HIDDEN,), HUGE)
    vector = SteeringVector({HookPoint("resid_post", layer): v for layer in range(30)})
    shelf.library.add(write_vector(vector), "huge")
    return vector.digest


@pytest.fixture
def unbounded(engine: Engine) -> Iterator[None]:
    """As if the bound were wrong: what it lets through has to be found in the step."""
    core = engine.llm.llm_engine.engine_core.engine_core  # type: ignore[attr-defined]
    steered = core.model_executor.driver_worker.steering.steered
    bound, steered.most_added = steered.most_added, float("inf")
    yield
    steered.most_added = bound


def victims(text_ids: list[int]) -> list[Ask]:
    return [Ask(tuple(text_ids[n : n + length]), tokens=6) for n, length in enumerate(LENGTHS)]


def attack(digest: str, text_ids: list[int], positions: str = "all", tokens: int = 40) -> Ask:
    vector = PlannedVector(
        digest, as_float32(1.0), (HookPoint("resid_post", 3), HookPoint("resid_post", 7)), positions
    )
    return Ask(tuple(text_ids[: 9 + tokens]), Plan((vector,)), tokens=tokens)


def test_an_addition_that_overflows_is_refused_before_it_is_made(
    engine: Engine, huge: str, text_ids: list[int]
) -> None:
    ended = engine.ask(attack(huge, text_ids))[0]
    assert (ended.finish_reason, ended.tokens) == ("error", ())


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize("positions", ["all", "generation", "after_prompt", "prompt"])
def test_what_overflows_ends_and_leaves_nothing_to_others(
    engine: Engine, huge: str, text_ids: list[int], positions: str
) -> None:
    engine.forget()
    alone = engine.ask(*victims(text_ids))
    engine.forget()
    attacks = [attack(huge, text_ids[n:], positions, 50 + n) for n in range(6)]
    for ended in engine.ask(*attacks, *victims(text_ids))[: len(attacks)]:
        assert ended.finish_reason == "error"
    for _ in range(3):
        engine.forget()
        assert engine.ask(*victims(text_ids)) == alone
    assert engine.left()[:5] == (0,) * 5
