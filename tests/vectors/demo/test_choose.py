import pytest

from tools.demo.sweep import MOST_PERPLEXITY, OWN, Grid, Point, Variant, choose

BLOCK = Variant("last", (3,))
PAIR = Variant("mean", (1, 2, 3, 4))


def curve(variant: Variant, *shifts: float, perplexity: float = 2.0) -> list[Point]:
    """Points at doses 0.1, 0.2, ... where the two directions differ by `shifts`."""
    return [
        Point(variant, sign * (i + 1) / 10, sign * shift / 2, perplexity, 0.0)
        for i, shift in enumerate(shifts)
        for sign in (-1, 1)
    ]


UNSTEERED = Point(OWN, 0.0, 0.0, 2.0, 0.0)


def test_the_largest_shift_wins_and_its_dose_is_coefficient_two() -> None:
    chosen = choose([UNSTEERED, *curve(BLOCK, 0.5, 1.0, 0.8), *curve(PAIR, 0.9, 0.9)])
    assert chosen["read"] == "last"
    assert chosen["layers"] == [3]
    assert chosen["unit_dose"] == pytest.approx(0.1)
    assert chosen["safe_range"] == [-2.0, 2.0]


def test_several_layers_share_the_dose() -> None:
    chosen = choose([UNSTEERED, *curve(PAIR, 0.5, 1.0)])
    assert chosen["unit_dose"] == pytest.approx(0.2 / 2 / 2)


def test_a_dose_beyond_the_first_garbled_one_is_never_chosen() -> None:
    garbled = Point(BLOCK, -0.2, -1.0, 2.0 * MOST_PERPLEXITY + 0.1, 0.0)
    points = [p if p.dose != -0.2 else garbled for p in curve(BLOCK, 0.5, 1.0, 2.0)]
    assert choose([UNSTEERED, *points])["unit_dose"] == pytest.approx(0.05)


def test_text_in_loops_is_not_fluent_however_likely() -> None:
    looping = [Point(BLOCK, sign * 0.1, 1.0, 1.0, 0.9) for sign in (-1, 1)]
    with pytest.raises(ValueError, match="fluent"):
        choose([UNSTEERED, *looping])


def test_the_grid_tries_both_directions_of_everything() -> None:
    grid = Grid(reads=("last", "mean"), layer_sets=((1,), (1, 2)), doses=(0.1, 0.2))
    points = grid.points()
    assert points[0] == (OWN, 0.0)
    assert len(points) == len(set(points)) == 1 + 2 * 2 * 2 * 2
    assert grid.layers == (1, 2)
