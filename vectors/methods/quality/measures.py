"""The measures, a number a layer each, and what they are with shuffled labels."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Final

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import MIN_SAMPLES, Activations, stacked_sides
from steersman.vectors.methods.split import Sides, relabelled, split
from steersman.vectors.tensors import tensor_name

HELD_OUT: Final = 0.3
REPEATS: Final = 4
LEAST_MEASURED: Final = 2 * MIN_SAMPLES
"""Samples a side, of which some can be held out."""
SHUFFLES: Final = 16

Fit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(positive, negative), each float32 [samples, layers, hidden], -> directions [layers, hidden]."""


def norm_measures(
    directions: torch.Tensor,
    layers: Sequence[int],
    median_norms: Sequence[float] | None,
    site: str = "resid_post",
) -> dict[str, dict[str, float]]:
    """`norms` and, with `median_norms`, `relative_norms` by tensor name.

    directions: [layers, hidden]; or [steps, layers, hidden], of which the longest step counts.
    """
    lengths = directions.to(torch.float64).norm(dim=-1)
    longest = lengths.amax(dim=0) if lengths.ndim == 2 else lengths
    check_layers(longest, len(layers), median_norms)
    norms = longest.tolist()
    found = {"norms": by_name(norms, layers, site)}
    if median_norms is not None:
        relative = [norm / median for norm, median in zip(norms, median_norms, strict=True)]
        found["relative_norms"] = by_name(relative, layers, site)
    return found


def separation(
    positive: Activations,
    negative: Activations,
    fit: Fit,
    *,
    paired: bool = False,
    seed: int = 0,
    held_out: float = HELD_OUT,
    repeats: int = REPEATS,
) -> list[float]:
    """Held-out AUROC of each layer, the mean over `repeats` splits; the same for the same seed.

    Activations are [layers, hidden], float32, at least 4 a side. Raises `ActivationsInvalid`.
    """

    def score(known: Sides, unknown: Sides) -> float:
        direction = _fitted(fit, known)
        if direction is None:
            return 0.5
        return _auroc(*(side[:, 0].to(torch.float64) @ direction for side in unknown))

    return _over_splits(positive, negative, score, held_out, paired, seed, repeats)


def split_half_cosine(
    positive: Activations,
    negative: Activations,
    fit: Fit,
    *,
    paired: bool = False,
    seed: int = 0,
    repeats: int = REPEATS,
) -> list[float]:
    """Cosine between two halves' directions at each layer, the mean over `repeats` splits.

    Activations are [layers, hidden], float32, at least 4 a side. Raises `ActivationsInvalid`.
    """

    def score(one: Sides, other: Sides) -> float:
        first, second = _fitted(fit, one), _fitted(fit, other)
        if first is None or second is None:
            return 0.0
        return float(first @ second / (first.norm() * second.norm()))

    return _over_splits(positive, negative, score, 0.5, paired, seed, repeats)


def shuffled(
    sides: Sides, fit: Fit, *, paired: bool = False, seed: int = 0, shuffles: int = SHUFFLES
) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of both measures over `shuffles` of the labels.

    sides: one layer's samples, float32 [samples, 1, hidden] each, at least 4 a side. The splits are
    those of the true labels; the same for the same seed. Raises `ActivationsInvalid`.
    """
    names = ("separation", "split_half_cosine")
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(shuffles):
        mixed = relabelled(sides, seed + number, paired=paired)
        values["separation"] += separation(*mixed, fit, paired=paired, seed=seed)
        values["split_half_cosine"] += split_half_cosine(*mixed, fit, paired=paired, seed=seed)
    return {name: {"mean": fmean(values[name]), "sd": stdev(values[name])} for name in names}


def by_name(values: Sequence[float], layers: Sequence[int], site: str) -> dict[str, float]:
    return {
        tensor_name((site, layer)): float(value)
        for layer, value in zip(layers, values, strict=True)
    }


def check_layers(
    directions: torch.Tensor, layers: int, median_norms: Sequence[float] | None
) -> None:
    if median_norms is None:
        median_norms = [1.0] * layers
    if not len(directions) == layers == len(median_norms):
        raise ActivationsInvalid(
            f"there are {len(directions)} directions, {layers} layers and {len(median_norms)} "
            "median norms; there must be as many of each",
            code="bad_shape",
        )
    if not all(math.isfinite(median) and median > 0 for median in median_norms):
        raise ActivationsInvalid(
            "median norms must be positive and finite: calibrate the model again",
            code="bad_setting", param="median_norms",
        )  # fmt: skip


def _auroc(high: torch.Tensor, low: torch.Tensor) -> float:
    """How often one of `high` is above one of `low`, equals counting half: the area under the
    curve. (scikit-learn's takes longer than all else here, and may not be installed.)"""
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high) + torch.searchsorted(ordered, high, right=True)
    return float(below.sum()) / (2 * len(high) * len(low))


def _over_splits(
    positive: Activations,
    negative: Activations,
    score: Callable[[Sides, Sides], float],
    fraction: float,
    paired: bool,
    seed: int,
    repeats: int,
) -> list[float]:
    sides = Sides(*stacked_sides(positive, negative, paired=paired))
    found = []
    for layer in range(sides.positive.shape[1]):
        scores = [
            score(*split(sides.at(layer), fraction, seed + number, paired=paired))
            for number in range(repeats)
        ]
        found.append(sum(scores) / repeats)
    return found


def _fitted(fit: Fit, sides: Sides) -> torch.Tensor | None:
    """float64 [hidden] of one layer; None where the two sides do not differ."""
    try:
        return fit(*sides)[0].to(torch.float64)
    except ActivationsInvalid as error:
        if error.code != "identical_sides":
            raise
        return None
