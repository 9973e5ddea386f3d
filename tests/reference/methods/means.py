"""CAA, style vectors, mean differences and per-step vectors, number by number.

Written from the papers and METHODS.md alone: no tensors, no running sums, exact sums (`math.fsum`).
A row is a nested list [layers][width].
"""

import math
from collections.abc import Sequence

Row = Sequence[Sequence[float]]
Direction = list[list[float]]


def mean(rows: Sequence[Row]) -> Direction:
    return [
        [math.fsum(row[layer][i] for row in rows) / len(rows) for i in range(len(rows[0][layer]))]
        for layer in range(len(rows[0]))
    ]


def minus(one: Row, other: Row) -> Direction:
    return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def caa(pairs: Sequence[tuple[Row, Row]]) -> Direction:
    """mean over pairs of (positive - negative)."""
    return mean([minus(positive, negative) for positive, negative in pairs])


def rescaled(behaviours: dict[str, Row]) -> dict[str, Direction]:
    """v_b * mean_b' ||v_b'|| / ||v_b||, layer by layer."""
    found: dict[str, Direction] = {name: [] for name in behaviours}
    for layer in range(len(next(iter(behaviours.values())))):
        lengths = {
            name: math.sqrt(math.fsum(x * x for x in vector[layer]))
            for name, vector in behaviours.items()
        }
        typical = math.fsum(lengths.values()) / len(lengths)
        for name, vector in behaviours.items():
            found[name].append([x * typical / lengths[name] for x in vector[layer]])
    return found


def style(sentences: Sequence[tuple[str, Row]], target: str) -> Direction:
    """mean over the style's sentences - mean over every sentence of any other style."""
    own = [row for name, row in sentences if name == target]
    rest = [row for name, row in sentences if name != target]
    return minus(mean(own), mean(rest))


def per_step(a: Sequence[Sequence[Row]], b: Sequence[Sequence[Row]], steps: int) -> list[Direction]:
    """For step i, mean of A's texts that have a step i - the same of B's; texts [step] of rows."""
    found = []
    for i in range(steps):
        alive_a = [text[i] for text in a if len(text) > i]
        alive_b = [text[i] for text in b if len(text) > i]
        if not alive_a or not alive_b:
            break
        found.append(minus(mean(alive_a), mean(alive_b)))
    return found
