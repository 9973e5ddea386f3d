"""What the grid's options stand for."""

import pytest

from steersman.client.errors import WrongUsage
from steersman.client.sweep.grid import (
    UNSTEERED,
    Cell,
    default_coefficients,
    default_layers,
    grid,
    parse_coefficients,
    parse_layers,
)


def test_coefficients() -> None:
    assert parse_coefficients("2,-1,0.5") == [-1.0, 0.5, 2.0]
    assert parse_coefficients("-0.3:0.3:0.1") == [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]
    assert parse_coefficients("1:2:0.75") == [1.0, 1.75]


@pytest.mark.parametrize("text", ["", "a", "1:2", "2:1:0.5", "0:1:0", "0:1:-1", "nan", "0:1:1e-9"])
def test_what_is_not_a_coefficient_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage, match="not a coefficient"):
        parse_coefficients(text)


def test_layers() -> None:
    assert parse_layers("8,12,16+14") == [(8,), (12,), (14, 16)]
    assert parse_layers("8-10, 9") == [(8,), (9,), (10,)]


@pytest.mark.parametrize("text", ["", "x", "3-", "5-3", "1+", "-2", "1.5"])
def test_what_is_not_a_list_of_layers_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage, match="not a list of layers"):
        parse_layers(text)


def test_the_unsteered_cell_is_there_once() -> None:
    assert grid([(3,), (4, 5)], [1.0, 0.0, -1.0]) == [
        UNSTEERED,
        Cell((3,), -1.0),
        Cell((3,), 1.0),
        Cell((4, 5), -1.0),
        Cell((4, 5), 1.0),
    ]


def test_defaults() -> None:
    assert default_coefficients(3.0) == [-6.0, -3.0, -1.5, 1.5, 3.0, 6.0]
    assert default_coefficients(0.0) == [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]
    assert default_layers([14, 16], range(8, 21)) == [(14, 16), (8,), (12,), (16,), (20,)]
    assert default_layers([5], [5]) == [(5,)]
