"""The condition of CAST by loops over floats; numpy for the eigenvectors alone.

Written from the paper and METHODS.md: it must never import the product it is there to judge.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def component(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """One layer. positive, negative: [samples, hidden] -> [hidden], length 1, of either sign: the
    first eigenvector of the covariance of all samples about their common mean."""
    rows = [row.astype(np.float64) for side in (positive, negative) for row in side]
    mean = sum(rows[1:], rows[0]) / len(rows)
    covariance = sum((np.outer(row - mean, row - mean) for row in rows), np.zeros((len(mean),) * 2))
    values, vectors = np.linalg.eigh(covariance)
    found: np.ndarray = vectors[:, int(np.argmax(values))]
    return found


def cast(h: Sequence[float], c: Sequence[float]) -> float:
    """The cosine of h and tanh((c c^T / c^T c) h)."""
    length = math.fsum(x * x for x in c)
    along = [math.tanh(x * math.fsum(a * b for a, b in zip(c, h, strict=True)) / length) for x in c]
    both = math.fsum(a * b for a, b in zip(h, along, strict=True))
    return both / math.sqrt(math.fsum(a * a for a in h) * math.fsum(b * b for b in along))


def f1(passed: Sequence[bool], wanted: Sequence[bool]) -> float:
    """The harmonic mean of precision and recall; 0 where none of the wanted passed."""
    hits = sum(a and b for a, b in zip(passed, wanted, strict=True))
    if not hits:
        return 0.0
    precision, recall = hits / sum(passed), hits / sum(wanted)
    return 2 * precision * recall / (precision + recall)


def best_f1(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The best F1 of all thresholds between two values, on either side."""
    values, wanted = [*positive, *negative], [True] * len(positive) + [False] * len(negative)
    ordered = sorted(set(values))
    found = 0.0
    for low, high in pairwise(ordered):
        middle = (low + high) / 2
        found = max(found, f1([v > middle for v in values], wanted))
        found = max(found, f1([v < middle for v in values], wanted))
    return found
