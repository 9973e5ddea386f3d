"""Activation transport: maps that take one side's activations to the other's, element by element.

Rodriguez et al. 2024, "Controlling Language and Diffusion Models by Transporting Activations"
(Linear-AcT and Mean-AcT). Each element of the stream is a distribution of its own. The map that
moves the negative side's samples x to the positive side's y at the least cost pairs them in order;
Linear-AcT is the least-squares line through these pairs, y = w x + b, and holds where it has seen
samples: between the smallest and the largest x. Mean-AcT is the shift of the means alone.

Where the sides have different numbers of samples, the longer one's are read at the quantiles of the
shorter one's, in a straight line between neighbours.
"""

from typing import Literal

import torch

from steersman.vectors.methods.activations import Activations, check_differ, gap, stacked_sides

SUPPORTS = ("range", "everywhere")
LEAST_SPREAD = 1e-4
"""Standard deviation below which an element is left as it is, as in the paper's code."""
_FAR = torch.finfo(torch.float32).max


def act_linear(
    positive: Activations,
    negative: Activations,
    *,
    support: Literal["range", "everywhere"] = "range",
) -> torch.Tensor:
    """Weight, bias, low and high of the maps from `negative` to `positive`: float32 [layers, 4,
    width].

    positive, negative: samples [layers, width], float32. `support`: elements are moved only in the
    range of `negative`, or everywhere. Raises `ActivationsInvalid`.
    """
    x, y = _paired(*_sides(positive, negative))
    centred = x - x.mean(0)
    spread = centred.square().mean(0)
    moved = spread.sqrt() > LEAST_SPREAD
    weight = torch.where(moved, (centred * (y - y.mean(0))).mean(0) / spread, 1.0)
    bias = torch.where(moved, y.mean(0) - weight * x.mean(0), 0.0)
    low, high = x.amin(0), x.amax(0)
    if support == "everywhere":
        low, high = torch.full_like(low, -_FAR), torch.full_like(high, _FAR)
    return torch.stack([weight, bias, low, high], dim=1).float()


def act_mean(positive: Activations, negative: Activations) -> torch.Tensor:
    """The maps that move `negative`'s mean to `positive`'s: as `act_linear`, with a weight of 1 and
    no bounds."""
    x, y = _sides(positive, negative)
    moved = x.std(0, correction=0) > LEAST_SPREAD
    bias = torch.where(moved, y.mean(0) - x.mean(0), 0.0)
    far = torch.full_like(bias, _FAR)
    return torch.stack([torch.ones_like(bias), bias, -far, far], dim=1).float()


def _sides(positive: Activations, negative: Activations) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples that are moved, and those that they are moved to: float64 [samples, layers,
    width]."""
    y, x = (side.double() for side in stacked_sides(positive, negative, paired=False))
    _, differs = gap(y.mean(0), x.mean(0))
    check_differ(differs)
    return x, y


def _paired(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides in order, with as many samples each."""
    x, y = x.sort(dim=0).values, y.sort(dim=0).values
    count = min(len(x), len(y))
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return _at_quantiles(x, at), _at_quantiles(y, at)


def _at_quantiles(ordered: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """`ordered` [samples, ...] at the quantiles `at`; sample k of n is the quantile (k + 1/2)/n."""
    if len(ordered) == len(at):
        return ordered
    place = (at * len(ordered) - 0.5).clamp(0, len(ordered) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    part = (place - below)[:, None, None]
    return ordered[below] * (1 - part) + ordered[above] * part
