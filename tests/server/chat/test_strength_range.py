"""Which requests lie outside a vector's safe range, and where that is refused."""

from pathlib import Path
from typing import Any

import pytest

from steersman.server.state import Steersman
from steersman.steering.plan import PlanInvalid
from tests.support.server import make
from tests.support.server.make import steersman

INSIDE: dict[str, Any] = {
    "at its upper end": {"vectors": {"ranged": 2.0}},
    "at its lower end": {"vectors": {"ranged": -1.0}},
    "nothing": {"vectors": {"ranged": 0.0}},
    "all of a schedule": {"vectors": [{"id": "ranged", "schedule": [2, -1, 0]}]},
    "the cap": {"vectors": [{"id": "ranged"}], "dynamic": {"max": 2.0, "start": 9.0}},
    "two uses": {"vectors": [{"id": "ranged", "coefficient": 1}] * 2},
    "two ways": {"vectors": [{"id": "ranged", "coefficient": c} for c in (2, -1)]},
}
OUTSIDE: dict[str, tuple[Any, str]] = {
    "above": ({"vectors": {"ranged": 2.01}}, "steering.vectors[0].coefficient"),
    "below": ({"vectors": {"ranged": -1.01}}, "steering.vectors[0].coefficient"),
    "one of a schedule": (
        {"vectors": [{"id": "ranged", "schedule": [0, 2.1, 0]}]},
        "steering.vectors[0].schedule",
    ),
    "a schedule for all": ({"vectors": [{"id": "ranged"}], "schedule": [-3]}, "steering.schedule"),
    "at first": (
        {"vectors": [{"id": "ranged", "coefficient": 3, "schedule": "diminishing", "over": 9}]},
        "steering.vectors[0].coefficient",
    ),
    "the cap": ({"vectors": [{"id": "ranged"}], "dynamic": {"max": 2.1}}, "steering.dynamic.max"),
    "a cap of its own": (
        {"vectors": [{"id": "ranged", "coefficient": 3}], "dynamic": {}},
        "steering.vectors[0].coefficient",
    ),
    "two uses together": (
        {"vectors": [{"id": "ranged", "coefficient": 1.5}] * 2},
        "steering.vectors[0].coefficient",
    ),
    "two uses the other way": (
        {"vectors": [{"id": "ranged", "schedule": [-0.6]}, {"id": "ranged", "coefficient": -0.6}]},
        "steering.vectors[0].schedule",
    ),
}


@pytest.fixture
def marks(tmp_path: Path) -> Steersman:
    """Marks what lies outside."""
    return steersman(tmp_path)


@pytest.fixture
def refuses(tmp_path: Path) -> Steersman:
    """Refuses it."""
    return steersman(tmp_path, enforce_safe_range=True)


def outside(app: Steersman, field: Any) -> list[Any]:
    return [draft["outside_safe_range"] for draft in make.ask(app, field).draft]


@pytest.mark.parametrize("field", INSIDE.values(), ids=INSIDE)
def test_inside(marks: Steersman, refuses: Steersman, field: Any) -> None:
    said = outside(marks, field)
    assert said == [False] * len(said)
    assert outside(refuses, field) == said


@pytest.mark.parametrize(("field", "param"), OUTSIDE.values(), ids=OUTSIDE)
def test_outside(marks: Steersman, refuses: Steersman, field: Any, param: str) -> None:
    said = outside(marks, field)
    assert said == [True] * len(said)
    with pytest.raises(PlanInvalid, match=r"from -1 to 2.*--enforce-safe-range") as caught:
        make.ask(refuses, field)
    assert (caught.value.code, caught.value.param) == ("outside_safe_range", param)


def test_a_vector_without_a_range(marks: Steersman, refuses: Steersman) -> None:
    for app in (marks, refuses):
        assert outside(app, {"vectors": {"plain": 90.0}}) == [None]


def test_it_is_the_vectors_own_range(marks: Steersman) -> None:
    field = {"vectors": {"ranged": 3.0, "plain": 3.0, "other": 1.0}}
    assert outside(marks, field) == [True, None, None]


def test_a_range_that_leaves_out_0(marks: Steersman) -> None:
    marks.whole_library.update("other", safe_range=(1.0, 2.0))
    for coefficient, said in ((0.0, False), (0.5, True), (1.0, False), (-1.0, True)):
        assert outside(marks, {"vectors": {"other": coefficient}}) == [said]


def test_a_range_that_float32_rounds(marks: Steersman) -> None:
    marks.whole_library.update("other", safe_range=(-0.1, 0.3))
    for coefficient in (-0.1, 0.3):
        assert outside(marks, {"vectors": {"other": coefficient}}) == [False]
