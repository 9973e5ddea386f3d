"""Splits and shuffles of rows that are the same for the same seed, on every machine."""

import random
from typing import NamedTuple

import torch

from steersman.vectors.methods.errors import ActivationsInvalid
from steersman.vectors.methods.rows import MIN_ROWS


class Sides(NamedTuple):
    """float32 [rows, layers, hidden] on each side."""

    positive: torch.Tensor
    negative: torch.Tensor

    def at(self, layer: int) -> "Sides":
        """A view of one place of the layers' axis: [rows, 1, hidden] on each side."""
        return Sides(self.positive[:, layer : layer + 1], self.negative[:, layer : layer + 1])


def split(
    sides: Sides, fraction: float, seed: int, *, paired: bool, min_rows: int = MIN_ROWS
) -> tuple[Sides, Sides]:
    """Put `fraction` of each side's rows into the second part, the others into the first.

    Each part keeps at least `min_rows` a side; the two rows of a pair stay together. Raises
    `ActivationsInvalid` if there are too few rows for that. The rows are copied: split one layer
    at a time.
    """
    # The two rows of a pair are alike in all but the property: one in each part would be a leak.
    numbers = random.Random(seed)
    first = _cut(len(sides.positive), "positive", fraction, numbers, min_rows)
    second = first if paired else _cut(
        len(sides.negative), "negative", fraction, numbers, min_rows
    )  # fmt: skip
    return (
        Sides(sides.positive[first[0]], sides.negative[second[0]]),
        Sides(sides.positive[first[1]], sides.negative[second[1]]),
    )


def relabelled(sides: Sides, seed: int, *, paired: bool) -> Sides:
    """The same rows, as many on each side, with labels that mean nothing: pairs each turned around
    or not, other rows dealt out anew. The same for the same seed."""
    numbers = random.Random(seed)
    if paired:
        turned = torch.tensor([numbers.random() < 0.5 for _ in sides.positive])
        turned = turned.view(-1, *[1] * (sides.positive.ndim - 1))
        return Sides(
            torch.where(turned, sides.negative, sides.positive),
            torch.where(turned, sides.positive, sides.negative),
        )
    rows = torch.cat(sides)
    order = list(range(len(rows)))
    numbers.shuffle(order)
    count = len(sides.positive)
    return Sides(rows[order[:count]], rows[order[count:]])


def _cut(
    count: int, side: str, fraction: float, numbers: random.Random, min_rows: int
) -> tuple[list[int], list[int]]:
    if count < 2 * min_rows:
        raise ActivationsInvalid(
            f"{side} has {count} usable rows; to hold some out, at least {2 * min_rows} are needed",
            code="too_few_rows", param=side,
        )  # fmt: skip
    order = list(range(count))
    numbers.shuffle(order)
    held = min(max(round(count * fraction), min_rows), count - min_rows)
    return sorted(order[held:]), sorted(order[:held])
