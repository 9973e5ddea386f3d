"""The rule, on sweeps made up for it."""

import math

from server.sweep.grid import UNSTEERED, Cell
from server.sweep.pick import pick
from server.sweep.run import CellResult


def cell(
    coefficient: float,
    measure: float,
    perplexity: float = 4.0,
    *,
    layers: tuple[int, ...] = (3,),
    repetition: float = 0.1,
) -> CellResult:
    return CellResult(
        Cell(layers, coefficient), measure=measure, perplexity=perplexity, repetition=repetition
    )


OWN = CellResult(UNSTEERED, measure=0.2, perplexity=4.0, repetition=0.1)


def test_the_best_fluent_cell_is_picked() -> None:
    picked = pick([OWN, cell(1, 0.4, 4.5), cell(2, 0.6, 5.9), cell(4, 0.9, 6.1)])
    assert picked is not None
    assert picked.result.cell == Cell((3,), 2)
    assert picked.safe_range == (0.0, 2.0)


def test_the_limit_itself_is_too_much() -> None:
    assert pick([OWN, cell(1, 0.4, 6.0)]) is None


def test_beyond_a_cell_that_is_not_fluent_nothing_is_safe() -> None:
    picked = pick([OWN, cell(1, 0.3), cell(2, 0.5, 9.0), cell(3, 0.9), cell(-1, 0.0)])
    assert picked is not None
    assert picked.result.cell.coefficient == 1
    assert picked.safe_range == (-1.0, 1.0)


def test_loops_are_not_fluent_however_well_they_are_predicted() -> None:
    picked = pick([OWN, cell(1, 0.3), cell(2, 0.9, 1.1, repetition=0.26)])
    assert picked is not None
    assert picked.result.cell.coefficient == 1


def test_the_range_is_that_of_the_picked_layers() -> None:
    results = [
        OWN,
        *(cell(c, 0.3) for c in (-2, -1, 1, 2)),
        *(cell(c, 0.5 + c / 10, layers=(7,)) for c in (-1, 1)),
        cell(-2, 0.5, 90.0, layers=(7,)),
    ]
    picked = pick(results)
    assert picked is not None
    assert picked.result.cell == Cell((7,), 1)
    assert picked.safe_range == (-1.0, 1.0)


def test_lower_may_be_better() -> None:
    picked = pick([OWN, cell(1, 0.4), cell(-1, 0.1), cell(-2, -0.5)], lower=True)
    assert picked is not None
    assert picked.result.cell.coefficient == -2


def test_between_equals_the_weaker_and_then_the_more_fluent() -> None:
    results = [OWN, cell(2, 0.5, 4.0), cell(1, 0.5, 5.0), cell(1, 0.5, 4.5, layers=(7,))]
    picked = pick(results)
    assert picked is not None
    assert picked.result.cell == Cell((7,), 1)


def test_nothing_is_picked_where_nothing_is_better() -> None:
    assert pick([OWN, cell(1, 0.2), cell(-1, 0.1)]) is None


def test_a_refused_cell_ends_the_range() -> None:
    refused = CellResult(Cell((3,), 2), refused="over the limit")
    assert math.isnan(refused.perplexity)
    picked = pick([OWN, cell(1, 0.3), refused, cell(3, 0.9)])
    assert picked is not None
    assert picked.safe_range == (0.0, 1.0)
