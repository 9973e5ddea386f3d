"""How good a vector is, from the rows it was made of, before any text is generated with it.

All measures are one number a layer:

    separation          AUROC of held-out rows along a direction fitted on the others; 0.5 is chance
    split_half_cosine   cosine between the directions of two random halves of the rows
    norms               length of the vector
    relative_norms      length over the median ||h|| of the residual stream there: the relative dose
                        of coefficient 1

The last, and the recommendation, need the model's median norms: without, they are missing.

The recommendation is a place to start, not a finding; `steersman sweep` measures behaviour. Its
rule: among the layers of the network's middle (0.3 to 0.7 of its depth: earlier, directions follow
tokens rather than meaning, and later, little is left of the network to act on them), those within
0.05 of the highest (2 * separation - 1) * split_half_cosine, and of these the one nearest to the
middle. The coefficient gives a relative dose of 0.15 at that layer alone, the range runs from 0.1
to 0.5. The demo's vectors and four styles were measured at their best between 0.1 and 0.2 on a
model of 135 million parameters (docs/demo-vectors.md, docs/sweep.md, `bench/styles.py`), and 0.4
broke its text; a published study found about half the layer's typical norm best on larger ones.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from vectors.methods.errors import ActivationsInvalid
from vectors.methods.rows import Rows, stacked_sides
from vectors.methods.split import Sides, split
from vectors.tensors import tensor_name

DOSE: Final = 0.15
DOSE_RANGE: Final = (0.1, 0.5)
MIDDLE: Final = (0.3, 0.7)
AS_GOOD: Final = 0.05
HELD_OUT: Final = 0.3
REPEATS: Final = 4

Fit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(positive, negative), each float32 [rows, layers, hidden], -> directions [layers, hidden]."""


def measure(
    directions: torch.Tensor,
    positive: Rows,
    negative: Rows,
    fit: Fit,
    *,
    layers: Sequence[int],
    num_layers: int,
    median_norms: Sequence[float] | None,
    site: str = "resid_post",
    paired: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """All measures and the recommendation, as JSON for a vector's metadata.

    directions: float32 [layers, hidden], made of all rows by `fit`. positive, negative: the rows,
    float32 [layers, hidden] each. layers: block indices, one for each place of the layers' axis,
    out of `num_layers`. median_norms: median ||h|| at `site` of each of `layers`; None if nobody
    has measured it. Measures are keyed by tensor name, as `norms` in the metadata are. With fewer
    than 4 rows a side, nothing can be held out: the first two measures are missing, and the
    recommendation goes by depth alone. Raises `ActivationsInvalid`.
    """
    sides = stacked_sides(positive, negative, paired=paired)
    _check_layers(directions, len(layers), median_norms)
    found: dict[str, Any] = {
        "rows": [len(side) for side in sides],
        "seed": seed,
        **norm_measures(directions, layers, median_norms, site),
    }
    separated = stable = None
    try:
        separated = separation(*sides, fit, paired=paired, seed=seed)
        stable = split_half_cosine(*sides, fit, paired=paired, seed=seed)
    except ActivationsInvalid as error:
        if error.code != "too_few_rows":
            raise
    else:
        found["separation"] = _by_name(separated, layers, site)
        found["split_half_cosine"] = _by_name(stable, layers, site)
    if median_norms is not None:
        found["recommended"] = recommend(
            directions.norm(dim=-1).tolist(),
            layers=layers,
            num_layers=num_layers,
            median_norms=median_norms,
            separated=separated,
            stable=stable,
        )
    return found


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
    _check_layers(longest, len(layers), median_norms)
    norms = longest.tolist()
    found = {"norms": _by_name(norms, layers, site)}
    if median_norms is not None:
        relative = [norm / median for norm, median in zip(norms, median_norms, strict=True)]
        found["relative_norms"] = _by_name(relative, layers, site)
    return found


def separation(
    positive: Rows,
    negative: Rows,
    fit: Fit,
    *,
    paired: bool = False,
    seed: int = 0,
    held_out: float = HELD_OUT,
    repeats: int = REPEATS,
) -> list[float]:
    """Held-out AUROC of each layer, the mean over `repeats` splits; the same for the same seed.

    Rows are [layers, hidden], float32, at least 4 a side. Raises `ActivationsInvalid`.
    """

    def score(known: Sides, unknown: Sides) -> float:
        direction = _fitted(fit, known)
        if direction is None:
            return 0.5
        along = [side[:, 0].to(torch.float64) @ direction for side in unknown]
        return _auroc(*along)

    return _over_splits(positive, negative, score, held_out, paired, seed, repeats)


def _auroc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Share of pairs of float64 [positives] and [negatives] in which the positive one is higher.

    A tie counts as half. The area under the ROC curve is this number, which needs no package.
    """
    order = negative.sort().values
    below = torch.searchsorted(order, positive, side="left")
    up_to = torch.searchsorted(order, positive, side="right")
    return float((below + up_to).sum()) / (2 * len(positive) * len(negative))


def split_half_cosine(
    positive: Rows,
    negative: Rows,
    fit: Fit,
    *,
    paired: bool = False,
    seed: int = 0,
    repeats: int = REPEATS,
) -> list[float]:
    """Cosine between two halves' directions at each layer, the mean over `repeats` splits.

    Rows are [layers, hidden], float32, at least 4 a side. Raises `ActivationsInvalid`.
    """

    def score(one: Sides, other: Sides) -> float:
        first, second = _fitted(fit, one), _fitted(fit, other)
        if first is None or second is None:
            return 0.0
        return float(first @ second / (first.norm() * second.norm()))

    return _over_splits(positive, negative, score, 0.5, paired, seed, repeats)


def recommend(
    norms: Sequence[float],
    *,
    layers: Sequence[int],
    num_layers: int,
    median_norms: Sequence[float],
    separated: Sequence[float] | None = None,
    stable: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A layer, a coefficient and a range for it, by the rule at the top of this module.

    Sequences run along `layers`. Without layers in the network's middle, or without measures, it
    goes by what there is, and `basis` says so. `safe_range` is the range in both directions.
    """
    depth = [(layer + 1) / num_layers for layer in layers]
    places = [i for i, part in enumerate(depth) if MIDDLE[0] <= part <= MIDDLE[1] and norms[i] > 0]
    basis = "middle layers"
    if not places:
        places = [i for i, norm in enumerate(norms) if norm > 0]
        basis = "all layers, none being in the middle"
    if not places:
        raise ActivationsInvalid("the vector is zero at every layer", code="identical_sides")
    scores = [0.0] * len(norms)
    if separated is None or stable is None:
        basis += ", by depth alone: too few rows to hold some out"
    else:
        scores = [
            max(2 * auroc - 1, 0.0) * max(cosine, 0.0)
            for auroc, cosine in zip(separated, stable, strict=True)
        ]
        basis += ", by separation and split-half cosine"
    middle = sum(MIDDLE) / 2
    least = max(scores[i] for i in places) - AS_GOOD
    best = min(
        (i for i in places if scores[i] >= least),
        key=lambda i: (abs(depth[i] - middle), -scores[i]),
    )
    unit = median_norms[best] / norms[best]
    low, high = (dose * unit for dose in DOSE_RANGE)
    return {
        "layer": layers[best],
        "coefficient": DOSE * unit,
        "range": [low, high],
        "safe_range": [-high, high],
        "relative_dose": DOSE,
        "score": scores[best],
        "basis": basis,
    }


def _over_splits(
    positive: Rows,
    negative: Rows,
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


def _by_name(values: Sequence[float], layers: Sequence[int], site: str) -> dict[str, float]:
    return {
        tensor_name((site, layer)): float(value)
        for layer, value in zip(layers, values, strict=True)
    }


def _check_layers(
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
