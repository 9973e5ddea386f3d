"""The condition of conditional activation steering: a direction, and where it is cut.

Lee et al. 2024, "Programming Refusal with Conditional Activation Steering" (CAST). Samples are the
means of the stream over all tokens of a prompt. Per layer the direction is the first principal
component of the samples of both sides, minus the mean of them all, of length 1. What a gate
measures of a prompt is the cosine of its mean h and tanh(c (c.h) / (c.c)), which does not depend on
the direction's sign or length. The layer, the threshold and the side of it on which the condition
holds are those with the best F1, positive samples being those for which it is to hold.

Two things differ from the paper's code (IBM/activation-steering). It tries thresholds from 0 to 1
in steps of 0.01; here they lie midway between neighbouring samples, which are all that there are.
It reads a block's output for the direction and measures at the block's input; here both are one
place, the one where the gate will measure.

`mean_difference` in place of the component is not the paper's. The component is whatever prompts
differ in most, which need not be what they were chosen for.
"""

from typing import Final, Literal, NamedTuple, get_args

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import Activations, check_differ, gap, stacked_sides

Direction = Literal["component", "mean_difference"]
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
APART: Final = 1e-6
"""Samples whose measures differ by less are not told apart: a gate computes in float32."""


class Cut(NamedTuple):
    """The condition holds where the measure is on this side of the threshold."""

    threshold: float
    side: Literal["above", "below"]
    f1: float
    """On the samples that it was chosen on."""


def condition_direction(
    positive: Activations, negative: Activations, *, direction: Direction = "component"
) -> torch.Tensor:
    """The direction of each layer, of length 1, towards the positive mean: float32 [layers,
    hidden].

    positive, negative: means over prompts, [layers, hidden] each, float32. Raises
    `ActivationsInvalid`.
    """
    if direction not in DIRECTIONS:
        raise ActivationsInvalid(
            f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}",
            code="bad_setting", param="direction",
        )  # fmt: skip
    sides = stacked_sides(positive, negative, paired=False)
    found = torch.zeros(sides[0].shape[1:], dtype=torch.float64)
    for layer in range(len(found)):
        plus, minus = (side[:, layer].to(torch.float64) for side in sides)
        towards, differs = gap(plus.mean(dim=0), minus.mean(dim=0))
        if not bool(differs):
            continue
        made = towards if direction == "mean_difference" else _component(torch.cat([plus, minus]))
        found[layer] = made / made.norm() * (-1.0 if float(made @ towards) < 0 else 1.0)
    check_differ(found.norm(dim=-1) > 0)
    return found.to(torch.float32)


def similarity(samples: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """What a gate with the measure `cast` finds: float64 [samples].

    samples: [samples, hidden]; direction: [hidden].
    """
    h, c = samples.to(torch.float64), direction.to(torch.float64)
    along = torch.tanh((h @ c / (c @ c))[:, None] * c)
    return torch.cosine_similarity(h, along, dim=-1, eps=1e-30)


def best_cut(positive: torch.Tensor, negative: torch.Tensor) -> Cut:
    """The threshold and side with the highest F1; of equals the one in the widest gap.

    positive, negative: measures, float64 [samples]. Where all are the same, nothing is cut, and F1
    is 0.
    """
    values, order = torch.cat([positive, negative]).sort(stable=True)
    steps = values.diff()
    at = (steps > APART).nonzero()[:, 0]
    if not len(at):
        return Cut(float(values[0]), "above", 0.0)
    wanted, every = len(positive), len(values)
    wanted_below = (order < wanted).to(torch.float64).cumsum(0)[at]
    below = (at + 1).to(torch.float64)
    scores = {
        "above": 2 * (wanted - wanted_below) / (every - below + wanted),
        "below": 2 * wanted_below / (below + wanted),
    }
    best = max(float(score.max()) for score in scores.values())
    cuts = [
        (float(steps[at[n]]), Cut(float(values[at[n]] + steps[at[n]] / 2), side, best))
        for side in ("above", "below")
        for n in (scores[side] == best).nonzero()[:, 0].tolist()
    ]
    return max(cuts, key=lambda one: one[0])[1]


def f1_of(cut: Cut, positive: torch.Tensor, negative: torch.Tensor) -> float:
    """F1 of a cut on other samples' measures, float64 [samples] a side."""
    hits, false = (
        int((side > cut.threshold).sum() if cut.side == "above" else (side < cut.threshold).sum())
        for side in (positive, negative)
    )
    return 2 * hits / (hits + false + len(positive))


def _component(samples: torch.Tensor) -> torch.Tensor:
    """The first principal component of float64 [samples, hidden]."""
    from sklearn.decomposition import PCA

    # Of the exact solvers the one that finds a single component without the others; its seed is of
    # the vector that it begins with.
    pca = PCA(n_components=1, svd_solver="arpack", random_state=0).fit(samples.numpy())
    return torch.from_numpy(pca.components_[0])
