"""The direction of a linear probe.

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes"; as a
steering direction in Li et al. 2023, "Inference-Time Intervention", and Heo et al. 2024, "Do LLMs
'know' internally when they follow instructions?". Per layer a logistic regression tells positive
samples from negative ones; its weights, at length 1, are the direction d. `scaled` is the mean
difference seen along it, ((mu+ - mu-) . d) d, which has the activations' own size.

Minimised, over w and an unpenalised intercept b, is

    1/2 |w|^2 + C * sum over samples of log(1 + exp(-y (w . x + b))),   y = +1 or -1,

with x the samples minus their mean, divided by one number a layer (the root mean square of all
their elements), so that C means the same at every layer.
"""

import math
from typing import Any, Final, Literal

import numpy as np
import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import NOISE, Activations, check_differ, stacked_sides
from steersman.vectors.methods.split import Sides

Length = Literal["unit", "scaled"]
_MAX_ITERATIONS: Final = 10_000
_Array = np.ndarray[Any, np.dtype[Any]]


def probe_direction(
    positive: Activations, negative: Activations, *, c: float = 1.0, length: Length = "unit"
) -> torch.Tensor:
    """The probe's weights at length 1, or `scaled`: float32 [layers, hidden].

    Raises `ActivationsInvalid`.
    """
    if not (math.isfinite(c) and c > 0):
        raise ActivationsInvalid(
            f"c must be positive and finite, not {c!r}", code="bad_setting", param="c"
        )
    sides = Sides(*stacked_sides(positive, negative, paired=False))
    found = torch.zeros(sides.positive.shape[1:], dtype=torch.float64)
    for layer in range(len(found)):
        weights = _fit(sides.at(layer), c)
        if weights is not None:
            found[layer] = weights / weights.norm()
    check_differ(found.norm(dim=-1) > 0)
    direction = found.to(torch.float32)
    return direction if length == "unit" else _scaled(sides, direction)


def _fit(sides: Sides, c: float) -> torch.Tensor | None:
    """A logistic regression's weights at one layer, float64; None if its samples do not differ."""
    from sklearn.linear_model import LogisticRegression

    samples, labels = _labelled(sides)
    centre = samples.mean(axis=0)
    gap = np.linalg.norm(samples[labels == 1].mean(axis=0) - samples[labels == 0].mean(axis=0))
    if gap <= NOISE * np.linalg.norm(samples, axis=1).max():
        return None
    scale = float(np.sqrt(np.mean((samples - centre) ** 2)))
    # Tight, because the default tolerance leaves the direction short of the minimum.
    model = LogisticRegression(C=c, solver="lbfgs", tol=1e-8, max_iter=_MAX_ITERATIONS)
    model.fit((samples - centre) / scale, labels)
    if int(model.n_iter_[0]) >= _MAX_ITERATIONS:
        raise ActivationsInvalid(
            f"the probe has not converged after {_MAX_ITERATIONS} steps; use a smaller c",
            code="not_converged", param="c",
        )  # fmt: skip
    return torch.from_numpy(model.coef_[0])


def _labelled(sides: Sides) -> tuple[_Array, _Array]:
    """The samples of one layer, float64 [samples, hidden], positive first, and 1 or 0 for each."""
    parts = [side[:, 0].to(torch.float64).numpy() for side in sides]
    return np.concatenate(parts), np.repeat([1, 0], [len(part) for part in parts])


def _scaled(sides: Sides, direction: torch.Tensor) -> torch.Tensor:
    """((mu+ - mu-) . d) d: float32 [layers, hidden]."""
    found = torch.empty_like(direction)
    for layer, unit in enumerate(direction.to(torch.float64)):
        plus, minus = (side[:, layer].to(torch.float64).mean(dim=0) for side in sides)
        found[layer] = ((plus - minus) @ unit) * unit
    return found
