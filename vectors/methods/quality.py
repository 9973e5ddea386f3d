"""How good a vector is, from the samples it was made of, before any text is generated with it.

All measures are one number a layer:

    separation          AUROC of held-out samples along a direction fitted on the rest; 0.5: chance
    split_half_cosine   cosine between the directions of two random halves of the samples
    norms               length of the vector
    relative_norms      length over the median ||h|| of the residual stream there: the relative dose
                        of coefficient 1

The last, and the recommendation, need the model's median norms.

The recommendation is a place to start, not a finding; `steersman sweep` measures behaviour. Its
rule: among the layers of the network's middle (0.3 to 0.7 of its depth: earlier, directions follow
tokens rather than meaning, and later, little is left of the network to act on them), those within
0.05 of the highest (2 * separation - 1) * split_half_cosine, and of these the one nearest to the
middle. The coefficient gives a relative dose of 0.15 at that layer alone, the range runs from 0.1
to 0.2. The demo's vectors and four styles were measured at their best there on a model of 135
million parameters (docs/demo-vectors.md, docs/sweep.md, `bench/styles.py`), and from 0.25 to 0.4 on
its text broke; a published study found about half the layer's typical norm best on larger ones.

There is a recommendation only where there is evidence for a direction at all: at that layer, both
measures are compared with what the same method makes of the same samples with shuffled labels (in
pairs, each pair turned around or not), `SHUFFLES` times. The true one must be above their mean by
so many of their standard deviations as `CLEARLY` has. What is fitted to noise is not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Final

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import MIN_SAMPLES, Activations, stacked_sides
from steersman.vectors.methods.split import Sides, relabelled, split
from steersman.vectors.tensors import tensor_name

DOSE: Final = 0.15
DOSE_RANGE: Final = (0.1, 0.2)
MIDDLE: Final = (0.3, 0.7)
AS_GOOD: Final = 0.05
HELD_OUT: Final = 0.3
REPEATS: Final = 4
LEAST_MEASURED: Final = 2 * MIN_SAMPLES
"""Samples a side, of which some can be held out."""
SHUFFLES: Final = 16
CLEARLY: Final = {"separation": 2.5, "split_half_cosine": 1.0}
"""Standard deviations above the mean of shuffled labels. Half the samples give a rougher
direction."""

Fit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(positive, negative), each float32 [samples, layers, hidden], -> directions [layers, hidden]."""


def measure(
    directions: torch.Tensor,
    positive: Activations,
    negative: Activations,
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

    directions: float32 [layers, hidden], made of all samples by `fit`. positive, negative: the
    samples, float32 [layers, hidden] each. layers: block indices, one for each place of the layers'
    axis, out of `num_layers`. median_norms: median ||h|| at `site` of each of `layers`; None if
    nobody has measured it. Measures are keyed by tensor name, as `norms` in the metadata are. With
    fewer than 4 samples a side, nothing can be held out: the first two measures are missing.
    `recommended` is None where there is nothing to recommend, and `reason` says why. Raises
    `ActivationsInvalid`.
    """
    sides = Sides(*stacked_sides(positive, negative, paired=paired))
    _check_layers(directions, len(layers), median_norms)
    lengths = directions.norm(dim=-1).tolist()
    found: dict[str, Any] = {
        "rows": [len(side) for side in sides],
        "seed": seed,
        **norm_measures(directions, layers, median_norms, site),
        "recommended": None,
    }
    try:
        separated = separation(*sides, fit, paired=paired, seed=seed)
        stable = split_half_cosine(*sides, fit, paired=paired, seed=seed)
    except ActivationsInvalid as error:
        if error.code != "too_few_rows":
            raise
        found["reason"] = (
            f"there are {min(found['rows'])} samples on a side: too few to hold some out and "
            f"measure the others on them; give at least {LEAST_MEASURED}, better 20"
        )
        return found
    found["separation"] = _by_name(separated, layers, site)
    found["split_half_cosine"] = _by_name(stable, layers, site)
    best = best_layer(
        lengths, layers=layers, num_layers=num_layers, separated=separated, stable=stable
    )
    null = shuffled(sides.at(best), fit, paired=paired, seed=seed)
    found["null"] = {"layer": layers[best], "shuffles": SHUFFLES, **null}
    doubt = _doubt(null, separated[best], stable[best])
    if doubt is not None:
        found["reason"] = f"at layer {layers[best]}, {doubt}"
    elif median_norms is None:
        found["reason"] = (
            "the model's median norms are not measured, without which no dose can be given"
        )
    else:
        found["recommended"] = recommend(
            lengths,
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


def best_layer(
    norms: Sequence[float],
    *,
    layers: Sequence[int],
    num_layers: int,
    separated: Sequence[float],
    stable: Sequence[float],
) -> int:
    """Place of the layer that the rule at the top of this module prefers. Raises
    `ActivationsInvalid` if the vector is zero everywhere."""
    depth = [(layer + 1) / num_layers for layer in layers]
    scores = _scores(separated, stable)
    places, _ = _candidates(norms, depth)
    least = max(scores[i] for i in places) - AS_GOOD
    middle = sum(MIDDLE) / 2
    return min(
        (i for i in places if scores[i] >= least),
        key=lambda i: (abs(depth[i] - middle), -scores[i]),
    )


def middle_layer(norms: Sequence[float], *, layers: Sequence[int], num_layers: int) -> int:
    """Place of the layer nearest to the network's middle at which the vector is not zero. Raises
    `ActivationsInvalid`."""
    level = [0.5] * len(norms)
    return best_layer(norms, layers=layers, num_layers=num_layers, separated=level, stable=level)


def recommend(
    norms: Sequence[float],
    *,
    layers: Sequence[int],
    num_layers: int,
    median_norms: Sequence[float],
    separated: Sequence[float],
    stable: Sequence[float],
) -> dict[str, Any]:
    """A layer, a coefficient and a range of it, by the rule at the top of this module.

    Sequences run along `layers`. Without layers in the network's middle it goes by what there is,
    and `basis` says so. Raises `ActivationsInvalid`.
    """
    best = best_layer(
        norms, layers=layers, num_layers=num_layers, separated=separated, stable=stable
    )
    _, which = _candidates(norms, [(layer + 1) / num_layers for layer in layers])
    unit = median_norms[best] / norms[best]
    return {
        "layer": layers[best],
        "coefficient": DOSE * unit,
        "range": [dose * unit for dose in DOSE_RANGE],
        "relative_dose": DOSE,
        "score": _scores(separated, stable)[best],
        "basis": f"{which}, by separation and split-half cosine",
    }


def _candidates(norms: Sequence[float], depth: Sequence[float]) -> tuple[list[int], str]:
    """Places that may be recommended, and which these are."""
    there = [i for i, norm in enumerate(norms) if norm > 0]
    if not there:
        raise ActivationsInvalid("the vector is zero at every layer", code="identical_sides")
    places = [i for i in there if MIDDLE[0] <= depth[i] <= MIDDLE[1]]
    return (places, "middle layers") if places else (there, "all layers, none being in the middle")


def _scores(separated: Sequence[float], stable: Sequence[float]) -> list[float]:
    return [
        max(2 * auroc - 1, 0.0) * max(cosine, 0.0)
        for auroc, cosine in zip(separated, stable, strict=True)
    ]


_WORDS: Final = {"separation": "separation", "split_half_cosine": "split-half cosine"}


def _doubt(null: Mapping[str, Mapping[str, float]], separated: float, stable: float) -> str | None:
    """Why there is no evidence for a direction; None if there is."""
    values = {"separation": separated, "split_half_cosine": stable}
    for name, value in values.items():
        mean, spread = null[name]["mean"], null[name]["sd"]
        if not value > mean + CLEARLY[name] * spread:
            return (
                f"the {_WORDS[name]} of {value:.2f} is not clearly "
                f"above that with shuffled labels ({mean:.2f} ± {spread:.2f}): the texts do not "
                "show a difference that holds; give more texts, or read other tokens"
            )
    return None


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
