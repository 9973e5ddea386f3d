"""The grid: every coefficient at every set of layers, and the unsteered model once."""

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from steersman.client.errors import WrongUsage

MOST: Final = 1000
"""Values that one range may stand for."""


class Cell(NamedTuple):
    """One way of steering. Empty `layers`: not steered."""

    layers: tuple[int, ...]
    coefficient: float


UNSTEERED: Final = Cell((), 0.0)


def grid(layer_sets: Sequence[tuple[int, ...]], coefficients: Sequence[float]) -> list[Cell]:
    """All cells, `UNSTEERED` first. A coefficient of 0 gives that cell, whatever the layers."""
    steered = sorted({c for c in coefficients if c})
    return [UNSTEERED] + [Cell(layers, c) for layers in layer_sets for c in steered]


def default_coefficients(own: float) -> list[float]:
    """Half, one and two times the vector's own coefficient, with both signs."""
    unit = own or 1.0
    return sorted(unit * factor for factor in (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0))


def default_layers(own: Sequence[int], available: Sequence[int]) -> list[tuple[int, ...]]:
    """The vector's own layers together, and up to four single layers, evenly spaced among all it
    has."""
    every = sorted(set(available))
    count = min(4, len(every))
    step = (len(every) - 1) / max(1, count - 1)
    sets = [tuple(own)]
    sets += [(every[round(n * step)],) for n in range(count)]
    return list(dict.fromkeys(sets))


def parse_layers(text: str) -> list[tuple[int, ...]]:
    """Parse sets of layers: `8,12,14+16` is three sets, of which the last steers two layers at
    once; `8-10` is `8,9,10`. Raises `WrongUsage`."""
    sets: list[tuple[int, ...]] = []
    for part in text.split(","):
        found: list[tuple[int, ...]] = []
        if run := re.fullmatch(r"\s*(\d{1,4})-(\d{1,4})\s*", part):
            found = [(n,) for n in range(int(run[1]), int(run[2]) + 1)]
        elif re.fullmatch(r"\s*\d{1,4}(\+\d{1,4})*\s*", part):
            found = [tuple(sorted({int(n) for n in part.split("+")}))]
        if not found:
            raise WrongUsage(
                f"{part!r} is not a list of layers, such as 8-12,20, or 14+16 for two at once",
                param="--layers",
            )
        sets += found
    return list(dict.fromkeys(sets))


def parse_coefficients(text: str) -> list[float]:
    """Parse `-1,0.5,2`, or `-2:2:0.5` (from, to (included), step). Raises `WrongUsage`."""
    numbers: list[float] = []
    for part in text.split(","):
        try:
            ends = [float(n) for n in part.split(":")]
        except ValueError:
            ends = []
        if len(ends) == 1 and math.isfinite(ends[0]):
            numbers += ends
        elif len(ends) == 3 and all(map(math.isfinite, ends)) and _steps(*ends) is not None:
            first, _, step = ends
            # Rounded, so that a step of 0.1 gives 0.3 and not 0.30000000000000004.
            numbers += [round(first + n * step, 10) for n in range((_steps(*ends) or 0) + 1)]
        else:
            raise WrongUsage(
                f"{part!r} is not a coefficient; write -1,0.5,2, or -2:2:0.5 (from, to, step)",
                param="--coefficients",
            )
    return sorted(set(numbers))


def _steps(first: float, last: float, step: float) -> int | None:
    if step <= 0 or last < first or (last - first) / step > MOST:
        return None
    return math.floor((last - first) / step + 1e-9)
