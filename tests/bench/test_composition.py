"""The arithmetic of the comparison at equal strength, and the plans that are compared."""

import json
import math

import numpy as np
import pytest

from bench.engine.composition import (
    BOTH,
    GRIDS,
    PROMPTS,
    PROPERTIES,
    Point,
    along,
    compare,
    described,
    gains,
    parse_arguments,
    plan,
    surprises,
    weights,
)
from bench.engine.composition_figure import COLOURS
from steersman.client.sweep.prompts import PROMPTS as SWEPT
from steersman.steering.plan import Dynamic, PlannedVector
from steersman.vectors.tensors import HookPoint
from tools.demo import measures as demo_measures

VECTORS = [
    PlannedVector(f"sha256:{n:064x}", 1.0, (HookPoint("resid_post", 14 + n),), "generation")
    for n in range(2)
]


def point(coefficient: float, first: float, second: float, surprise: float) -> Point:
    """Three answers, apart by 1 in each property and alike in surprise."""
    apart = np.array([-1.0, 0.0, 1.0])
    return Point(
        coefficient, np.array([first + apart, second + apart]), np.full(3, surprise), np.zeros(3)
    )


UNSTEERED = point(0, 1, 2, 0.5)


def test_prompts_had_no_part_in_choosing_the_vectors() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) == 24
    assert not set(PROMPTS) & {*demo_measures.PROMPTS, *SWEPT}


def test_plans() -> None:
    def steered(way: str) -> tuple[list[float], list[tuple[float, ...]], Dynamic | None]:
        made = plan(way, 1.5, VECTORS, 4, "r")
        assert [v.terms for v in made.vectors] == [v.terms for v in VECTORS]
        return (
            [v.coefficient for v in made.vectors],
            [v.schedule for v in made.vectors],
            made.dynamic,
        )

    both = [1.5, 1.5]
    assert steered("constant") == (both, [(), ()], None)
    assert steered("start") == (both, [(1.5,)] * 2, None)
    assert steered("diminishing") == (both, [(1.5, 1.125, 0.75, 0.375)] * 2, None)
    assert steered("dynamic sum") == (both, [(), ()], Dynamic(1.5, 0.95, mean=False))
    assert steered("dynamic mean") == (both, [(), ()], Dynamic(1.5, 0.95, mean=True))
    assert set(GRIDS) == set(COLOURS)


def test_weights_draw_prompts_with_replacement() -> None:
    drawn = weights(24, 500, seed=0)
    assert drawn.shape == (501, 24)
    np.testing.assert_allclose(drawn[0], 1 / 24)
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    np.testing.assert_array_equal(np.round(drawn[1:] * 24, 9) % 1, 0)
    assert (drawn[1:] == 0).any(axis=1).all()
    np.testing.assert_array_equal(drawn, weights(24, 500, seed=0))


def test_gains_are_over_the_unsteered_answers() -> None:
    found = gains([UNSTEERED, point(1, 2, 5, 0.5)], weights(3, 2, seed=0))
    np.testing.assert_allclose(found[PROPERTIES[0]], [[0, 1]] * 3)
    np.testing.assert_allclose(found[PROPERTIES[1]], [[0, 3]] * 3)
    # The unsteered answers' standard deviation is 1 in each.
    np.testing.assert_allclose(found[BOTH], [[0, 2]] * 3)


def test_draws_weigh_prompts() -> None:
    first = Point(0, np.array([[1.0, 4.0], [0.0, 1.0]]), np.array([0.1, 0.3]), np.zeros(2))
    later = Point(1, np.array([[2.0, 9.0], [0.0, 1.0]]), np.array([0.2, 0.8]), np.zeros(2))
    weight = np.array([[0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(gains([first, later], weight)[PROPERTIES[0]], [[0, 3], [0, 5]])
    np.testing.assert_allclose(surprises([first, later], weight), [[0.2, 0.5], [0.3, 0.8]])


@pytest.mark.parametrize(
    ("gained", "level", "wanted"),
    [
        ([0, 1, 2], 0.5, 15),
        ([0, 1, 2], 2, 40),
        ([0, 2, 1, 2], 1.5, 17.5),  # It comes to 1.5 twice; the first time counts.
        ([0, -1, 1], 0.5, 35),
        ([0, 0, 1], 0, 10),
        ([0, 1, 2], 2.1, math.nan),
    ],
)
def test_along(gained: list[float], level: float, wanted: float) -> None:
    values = np.array([10.0, 20, 40, 80])[: len(gained)]
    assert along(values, np.array(gained), level) == pytest.approx(wanted, nan_ok=True)


def test_compare() -> None:
    steep = [UNSTEERED, point(1, 3, 4, 0.9)]
    # As strong at the same step, at half the surprise; then further than the other goes.
    gentle = [UNSTEERED, point(1, 3, 4, 0.7), point(2, 9, 4, 3.0)]
    found = compare(steep, gentle, weights(3, 50, seed=0))
    assert set(found) == {*PROPERTIES, BOTH}
    for kind in PROPERTIES:
        assert found[kind]["common_gain"] == 2
        assert [level["gain"] for level in found[kind]["levels"]] == [0.4, 0.8, 1.2, 1.6]
        for part, level in zip((0.2, 0.4, 0.6, 0.8), found[kind]["levels"], strict=True):
            one, other = math.exp(0.5 + 0.4 * part), math.exp(0.5 + 0.2 * part)
            assert level["perplexities"] == pytest.approx([one, other], abs=1e-3)
            assert level["ratio"] == pytest.approx(other / one, abs=1e-4)
            assert level["interval"] == pytest.approx([level["ratio"]] * 2)
        assert found[kind]["ratio"] == pytest.approx(math.exp(-0.1), abs=1e-4)
        assert found[kind]["draws_that_count"] == 1
    json.dumps(found, allow_nan=False)


def test_a_path_that_goes_nowhere_is_not_compared() -> None:
    found = compare(
        [UNSTEERED, point(1, 3, 4, 0.9)], [UNSTEERED, point(1, 0, 4, 0.9)], weights(3, 5, seed=0)
    )
    assert found[PROPERTIES[0]] == {"common_gain": 0, "levels": []}
    assert found[PROPERTIES[1]]["ratio"] == 1


def test_points_as_json() -> None:
    chosen = (np.array([[2.0, 0.0], [1.0, 0.5]]), np.array([[0.0, 1.0]]))
    dynamic = Point(2.0, np.ones((2, 2)), np.array([0.0, 2.0]), np.array([0.0, 0.5]), chosen)
    (row,) = described([dynamic], np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]))
    assert row["perplexity"] == pytest.approx(math.e, abs=1e-3)
    assert 1 <= row["interval"][0] < row["interval"][1] <= round(math.e**2, 4)
    assert row["repetition"] == 0.25
    assert row["chosen"] == {
        PROPERTIES[0]: {"mean": 1.0, "first_token": 1.0, "at_most": 0.3333},
        PROPERTIES[1]: {"mean": 0.5, "first_token": 0.5, "at_most": 0.0},
    }


def test_help_says_what_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in (*GRIDS, *PROPERTIES, "composition.json"))
