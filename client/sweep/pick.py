"""The rule that picks defaults from a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from steersman.client.sweep.grid import UNSTEERED
from steersman.client.sweep.run import CellResult

PERPLEXITY: Final = 1.5
REPETITION: Final = 0.15
CHANCE: Final = 0.05
RULE: Final = (
    f"A cell is fluent if the perplexity of its answers under the unsteered model is below "
    f"{PERPLEXITY:g} times that of the unsteered answers, and at most {REPETITION:g} more of their "
    "runs of three tokens are repeated. The safe range of a set of layers goes from 0 both ways to "
    "the last coefficient before one that is not fluent. Of the cells in a safe range that are "
    "distinguishable from unsteered, the one with the best behaviour is picked. A cell is "
    "distinguishable if its mean gain over the same prompts is so many standard errors that a "
    "vector without an effect would reach it, in any of this sweep's cells, once in "
    f"{1 / CHANCE:.0f} sweeps. Between equals the smaller coefficient decides, then the lower "
    "perplexity. A measure that gave a number for less than half of a cell's answers does not "
    "count."
)


@dataclass(frozen=True)
class Pick:
    """The chosen cell, and the safe range of its layers."""

    result: CellResult
    safe_range: tuple[float, float]


def fluent(result: CellResult, unsteered: CellResult) -> bool:
    """Whether `result` is fluent, compared with the `unsteered` answers; False for a refused cell
    (all NaN)."""
    return (
        result.perplexity < PERPLEXITY * unsteered.perplexity
        and result.repetition <= unsteered.repetition + REPETITION
    )


def safe_cells(
    results: Sequence[CellResult], layers: tuple[int, ...], unsteered: CellResult
) -> list[CellResult]:
    """The cells of `layers` inside their safe range."""
    own = [result for result in results if result.cell.layers == layers]
    safe = []
    for sign in (-1, 1):
        side = [r for r in own if r.cell.coefficient * sign > 0]
        for result in sorted(side, key=lambda r: abs(r.cell.coefficient)):
            if not fluent(result, unsteered):
                break
            safe.append(result)
    return safe


def errors_needed(results: Sequence[CellResult]) -> float:
    """How many standard errors a gain must have, in a sweep with as many cells as `results`."""
    steered = sum(result.cell != UNSTEERED for result in results)
    return NormalDist().inv_cdf(1 - CHANCE / max(1, steered))


def distinguishable(result: CellResult, errors: float, *, lower: bool = False) -> bool:
    """Whether the gain in the wanted direction is more than `errors` standard errors."""
    return (-1 if lower else 1) * result.gain > errors * result.gain_error


def pick(results: Sequence[CellResult], *, lower: bool = False) -> Pick | None:
    """Apply `RULE`. `lower`: the lowest measure is the best. None if no cell qualifies."""
    sign = -1 if lower else 1
    errors = errors_needed(results)
    clear = [r for r in _better(results, sign) if distinguishable(r, errors, lower=lower)]
    if not clear:
        return None
    best = max(clear, key=lambda r: (sign * r.measure, -abs(r.cell.coefficient), -r.perplexity))
    safe = safe_cells(results, best.cell.layers, _unsteered(results))
    numbers = [0.0, *(result.cell.coefficient for result in safe)]
    return Pick(best, (min(numbers), max(numbers)))


def why_nothing(results: Sequence[CellResult], *, lower: bool = False) -> str:
    """Why `pick` returned None."""
    sign = -1 if lower else 1
    better = _better(results, sign)
    if not better:
        return "no fluent cell is better than unsteered"
    best = max(better, key=lambda r: sign * r.gain)
    if not math.isfinite(best.gain_error):
        return "fewer than three prompts were measured: too few to tell a gain from chance"
    return (
        f"no fluent cell is distinguishable from unsteered: the best gain, {best.gain:.3g} at "
        f"coefficient {best.cell.coefficient:g}, has a standard error of {best.gain_error:.2g}, "
        f"and {errors_needed(results):.1f} of these would be needed; more prompts make it smaller"
    )


def _unsteered(results: Sequence[CellResult]) -> CellResult:
    return next(result for result in results if result.cell == UNSTEERED)


def _better(results: Sequence[CellResult], sign: int) -> list[CellResult]:
    """Cells in a safe range whose measure is better than unsteered, by any amount."""
    unsteered = _unsteered(results)
    return [
        r
        for layers in dict.fromkeys(r.cell.layers for r in results if r.cell != UNSTEERED)
        for r in safe_cells(results, layers, unsteered)
        if sign * r.measure > sign * unsteered.measure and 2 * r.unmeasured <= len(r.answers)
    ]
