"""Whether a request steers a vector more strongly than its maker found sound."""

from collections import defaultdict
from collections.abc import Sequence

from steersman.steering.plan import PlannedVector
from steersman.vectors.library.library import Entry
from steersman.vectors.tensors import HookPoint


def outside_safe_ranges(
    entries: Sequence[Entry], vectors: Sequence[PlannedVector]
) -> list[bool | None]:
    """For each use of a vector in a request, whether it lies outside the vector's `safe_range`;
    None for a vector that has none.

    Every coefficient of a schedule counts, and of a dynamic request the cap; a coefficient of 0
    steers nothing and is in every range. Uses of the same content at one hook point count together,
    for they are once and stronger: all that are positive, and all that are negative.
    """
    together: defaultdict[tuple[str, HookPoint], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for vector in vectors:
        given = vector.schedule or (vector.coefficient,)
        for key in vector.terms:
            sums = together[vector.digest, key]
            sums[0] += min(0.0, *given)
            sums[1] += max(0.0, *given)
    found: list[bool | None] = []
    for entry, vector in zip(entries, vectors, strict=True):
        if entry.safe_range is None:
            found.append(None)
            continue
        low, high = entry.safe_range
        sums_of = [together[vector.digest, key] for key in vector.terms]
        given = vector.schedule or (vector.coefficient,)
        found.append(
            any(c != 0.0 and not _low(low) <= c <= _high(high) for c in given)
            or any(negative < min(0.0, _low(low)) for negative, _ in sums_of)
            or any(positive > max(0.0, _high(high)) for _, positive in sums_of)
        )
    return found


def _low(value: float) -> float:
    return value - abs(value) * _SLACK


def _high(value: float) -> float:
    return value + abs(value) * _SLACK


_SLACK = 1e-6
"""Coefficients are rounded to float32; ranges are not."""
