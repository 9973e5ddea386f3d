"""Activation transport, element by element.

Written from the paper and METHODS.md alone: no tensors, exact sums (`math.fsum`).
"""

import math
from collections.abc import Sequence


def line(source: Sequence[float], target: Sequence[float]) -> tuple[float, float, float, float]:
    """Weight and bias of the least-squares line through the pairs in order, and the range of
    `source`. Both have as many samples."""
    x, y = sorted(source), sorted(target)
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    above = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    below = math.fsum((a - mean_x) ** 2 for a in x)
    weight = above / below
    return weight, mean_y - weight * mean_x, x[0], x[-1]
