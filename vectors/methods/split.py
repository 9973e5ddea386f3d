"""Splits and shuffles of samples that are the same for the same seed, on every machine."""

import random
from typing import NamedTuple

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import MIN_SAMPLES


class Sides(NamedTuple):
    """float32 [samples, layers, hidden] on each side."""

    positive: torch.Tensor
    negative: torch.Tensor

    def at(self, layer: int) -> "Sides":
        """A view of one place of the layers' axis: [samples, 1, hidden] on each side."""
        return Sides(self.positive[:, layer : layer + 1], self.negative[:, layer : layer + 1])


def split(
    sides: Sides, fraction: float, seed: int, *, paired: bool, min_samples: int = MIN_SAMPLES
) -> tuple[Sides, Sides]:
    """Put `fraction` of each side's samples into the second part, the others into the first.

    Each part keeps at least `min_samples` a side; the two samples of a pair stay together. Raises
    `ActivationsInvalid` if there are too few samples for that. The samples are copied: split one
    layer at a time.
    """
    # The two samples of a pair are alike in all but the property: one in each part would be a leak.
    numbers = random.Random(seed)
    first = _cut(len(sides.positive), "positive", fraction, numbers, min_samples)
    second = first if paired else _cut(
        len(sides.negative), "negative", fraction, numbers, min_samples
    )  # fmt: skip
    return (
        Sides(sides.positive[first[0]], sides.negative[second[0]]),
        Sides(sides.positive[first[1]], sides.negative[second[1]]),
    )


def relabelled(sides: Sides, seed: int, *, paired: bool) -> Sides:
    """The same samples, as many on each side, with labels that mean nothing: pairs each turned
    around or not, other samples dealt out anew. The same for the same seed."""
    numbers = random.Random(seed)
    if paired:
        turned = torch.tensor([numbers.random() < 0.5 for _ in sides.positive])
        turned = turned.view(-1, *[1] * (sides.positive.ndim - 1))
        return Sides(
            torch.where(turned, sides.negative, sides.positive),
            torch.where(turned, sides.positive, sides.negative),
        )
    samples = torch.cat(sides)
    order = list(range(len(samples)))
    numbers.shuffle(order)
    count = len(sides.positive)
    return Sides(samples[order[:count]], samples[order[count:]])


def _cut(
    count: int, side: str, fraction: float, numbers: random.Random, min_samples: int
) -> tuple[list[int], list[int]]:
    if count < 2 * min_samples:
        raise ActivationsInvalid(
            f"{side} has {count} usable samples; to hold some out, at least "
            f"{2 * min_samples} are needed",
            code="too_few_rows", param=side,
        )  # fmt: skip
    order = list(range(count))
    numbers.shuffle(order)
    held = min(max(round(count * fraction), min_samples), count - min_samples)
    return sorted(order[held:]), sorted(order[:held])
