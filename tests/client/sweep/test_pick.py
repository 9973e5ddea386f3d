"""The rule, on sweeps made up for it."""

import math

from steersman.client.sweep.grid import UNSTEERED, Cell
from steersman.client.sweep.pick import errors_needed, pick, why_nothing
from steersman.client.sweep.run import CellResult


def cell(
    coefficient: float,
    measure: float,
    perplexity: float = 4.0,
    *,
    layers: tuple[int, ...] = (3,),
    repetition: float = 0.1,
    gain_error: float = 0.01,
) -> CellResult:
    return CellResult(
        Cell(layers, coefficient),
        measure=measure,
        gain=measure - 0.2,
        gain_error=gain_error,
        perplexity=perplexity,
        repetition=repetition,
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


def test_what_may_be_chance_is_not_picked() -> None:
    """As seen: 0.1645 +- 0.1645 against 0.1389 +- 0.1389 was picked and written."""
    results = [OWN, cell(1, 0.2256, gain_error=0.1), cell(-1, 0.1)]
    assert pick(results) is None
    assert "standard error" in why_nothing(results)
    assert "coefficient 1" in why_nothing(results)


def test_of_what_is_clear_the_best_and_not_what_is_better_by_chance() -> None:
    picked = pick([OWN, cell(1, 0.4, gain_error=0.02), cell(2, 0.6, gain_error=0.3)])
    assert picked is not None
    assert picked.result.cell.coefficient == 1
    assert picked.safe_range == (0.0, 2.0)


def test_of_more_cells_more_is_asked() -> None:
    """The best of many looks better than it is."""
    few = [OWN, cell(1, 0.25, gain_error=0.022)]
    many = [*few, *(cell(c, 0.2) for c in range(2, 32))]
    assert pick(few) is not None
    assert pick(many) is None
    assert 1.6 < errors_needed(few) < 1.7
    assert 2.9 < errors_needed(many) < 3.1


def test_two_prompts_are_too_few_to_tell() -> None:
    results = [OWN, cell(1, 0.9, gain_error=math.nan)]
    assert pick(results) is None
    assert "three prompts" in why_nothing(results)


def test_lower_is_told_from_chance_too() -> None:
    assert pick([OWN, cell(1, 0.1, gain_error=0.2)], lower=True) is None
    assert pick([OWN, cell(1, 0.1, gain_error=0.02)], lower=True) is not None
    assert pick([OWN, cell(1, 0.9, gain_error=0.02)], lower=True) is None
    assert "no fluent cell" in why_nothing([OWN, cell(1, 0.9)], lower=True)
