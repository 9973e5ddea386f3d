"""The rule that picks defaults out of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.sweep.grid import UNSTEERED
from server.sweep.run import CellResult

PERPLEXITY: Final = 1.5
REPETITION: Final = 0.15
RULE: Final = (
    f"A cell is fluent if the perplexity of its answers under the unsteered model is below "
    f"{PERPLEXITY:g} times that of the unsteered answers, and at most {REPETITION:g} more of their "
    "runs of three tokens are repeated. The safe range of a set of layers goes from 0 both ways to "
    "the last coefficient before one that is not fluent. Picked is the cell in a safe range with "
    "the best behaviour; it must be better than unsteered. Between equals the smaller coefficient, "
    "then the lower perplexity decides. A measure that gave a number for less than half of a "
    "cell's answers does not count."
)


@dataclass(frozen=True)
class Pick:
    """The chosen cell, and the safe range of its layers."""

    result: CellResult
    safe_range: tuple[float, float]


def fluent(result: CellResult, unsteered: CellResult) -> bool:
    """Whether `result` is, beside the `unsteered` answers; a refused cell (all NaN) is not."""
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


def pick(results: Sequence[CellResult], *, lower: bool = False) -> Pick | None:
    """Apply `RULE`. `lower`: the best behaviour is the lowest. None if no cell qualifies."""
    unsteered = next(result for result in results if result.cell == UNSTEERED)
    sign = -1 if lower else 1
    better = []
    ranges: dict[tuple[int, ...], tuple[float, float]] = {}
    for layers in dict.fromkeys(r.cell.layers for r in results if r.cell != UNSTEERED):
        safe = safe_cells(results, layers, unsteered)
        numbers = [0.0, *(result.cell.coefficient for result in safe)]
        ranges[layers] = (min(numbers), max(numbers))
        better += [
            r
            for r in safe
            if sign * r.measure > sign * unsteered.measure and 2 * r.unmeasured <= len(r.answers)
        ]
    if not better:
        return None
    best = max(better, key=lambda r: (sign * r.measure, -abs(r.cell.coefficient), -r.perplexity))
    return Pick(best, ranges[best.cell.layers])
