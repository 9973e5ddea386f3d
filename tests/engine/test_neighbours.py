"""Invariant 2: whoever is not steered cannot tell whether its neighbours are, to the last bit."""

import pytest

from steersman.steering.plan import Plan
from tests.engine.conftest import SITES, Shelf
from tests.support.engine.engine import Ask, Engine

LENGTHS = (3, 40, 17, 90, 1, 64)
STEERED = (1, 3, 4)


def batch(text_ids: list[int], plans: dict[int, Plan]) -> list[Ask]:
    """Requests of several lengths; the plans go to those with these numbers."""
    return [
        Ask(tuple(text_ids[n : n + length]), plans.get(n), tokens=6, prompt_logprobs=True)
        for n, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("positions", ["all", "generation", (0, 1)])
def test_unsteered_requests_are_bit_identical(
    engine: Engine, shelf: Shelf, text_ids: list[int], site: str, positions: str | tuple[int, int]
) -> None:
    plans = {
        n: Plan(
            (
                shelf.planned(1, 0.4 + n, (2, 11, 29), positions, site),
                shelf.planned(2, -0.7, (0, 11), "all"),
            )
        )
        for n in STEERED
    }
    among_unsteered = engine.ask(*batch(text_ids, {}))
    among_steered = engine.ask(*batch(text_ids, plans))
    for n in range(len(LENGTHS)):
        if n in STEERED:
            assert among_steered[n] != among_unsteered[n]
        else:
            assert among_steered[n] == among_unsteered[n]


def test_neighbours_that_come_and_go_make_no_difference(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """Rows of the batch are reused as requests end at different times, some of them refused."""

    def ask(plan: Plan | None) -> list[Ask]:
        return [
            Ask(tuple(text_ids[n : n + 20]), plan if n % 2 else None, 2 + 3 * n) for n in range(6)
        ]

    without = engine.ask(*ask(None))
    with_steered = engine.ask(*ask(shelf.plan(3, 0.8, (5, 20), "all")))
    again = engine.ask(*ask(None))
    assert [with_steered[n] for n in (0, 2, 4)] == [without[n] for n in (0, 2, 4)]
    assert [with_steered[n].tokens for n in (1, 3, 5)] != [without[n].tokens for n in (1, 3, 5)]
    assert [a.tokens for a in again] == [a.tokens for a in without]
