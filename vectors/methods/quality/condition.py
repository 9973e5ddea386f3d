"""The gate that a condition makes, and how well it decides about prompts it was not made of.

    f1            of the condition on all samples: its direction and its cut are made of them
    held_out_f1   of samples held out, the mean over splits; the cut, too, is made of the others
    null          the best of all layers' held-out F1 with shuffled labels, one split each: what
                  the choice of a layer alone comes to
    always        the F1 of a condition that always holds

The layer is the one with the highest `held_out_f1`, and of equals the first, behind which more of
the network can be steered.
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, Final

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import Activations, stacked_sides
from steersman.vectors.methods.cast import Cut, best_cut, f1_of, similarity
from steersman.vectors.methods.quality.measures import (
    HELD_OUT,
    LEAST_MEASURED,
    REPEATS,
    SHUFFLES,
    Fit,
    by_name,
    norm_measures,
)
from steersman.vectors.methods.split import Sides, relabelled, split

CLEARLY: Final = 2.5
"""Standard deviations above the null, as for a direction's separation."""


def measure_condition(
    directions: torch.Tensor,
    positive: Activations,
    negative: Activations,
    fit: Fit,
    *,
    layers: Sequence[int],
    median_norms: Sequence[float] | None,
    over: str,
    site: str = "resid_post",
    seed: int = 0,
) -> dict[str, Any]:
    """The gate, and its measures: JSON for a vector's metadata.

    directions: float32 [layers, hidden], made of all samples by `fit`; positive, negative: samples,
    float32 [layers, hidden] each; layers: block indices. `over`: of the gate, what its samples are.
    `gate` is what a request has, without `id`. `recommended` is the gate with its held-out F1, or
    None, with the `reason`. Raises `ActivationsInvalid`.
    """
    sides = Sides(*stacked_sides(positive, negative, paired=False))
    cuts = [
        _cut(sides.at(place), directions[place].to(torch.float64)) for place in range(len(layers))
    ]
    found: dict[str, Any] = {
        "rows": [len(side) for side in sides],
        "seed": seed,
        **norm_measures(directions, layers, median_norms, site),
        "f1": by_name([cut.f1 for cut in cuts], layers, site),
        "always": 2 * len(sides.positive) / (2 * len(sides.positive) + len(sides.negative)),
        "recommended": None,
    }

    def gate(place: int) -> dict[str, Any]:
        cut = cuts[place]
        return {"layer": layers[place], "measure": "cast", cut.side: cut.threshold, "over": over}

    if min(found["rows"]) < LEAST_MEASURED:
        best = max(range(len(layers)), key=lambda place: (cuts[place].f1, -place))
        found["gate"] = gate(best)
        found["reason"] = (
            f"there are {min(found['rows'])} samples on a side: too few to hold some out and "
            f"measure the others on them; give at least {LEAST_MEASURED}, better 20"
        )
        return found
    scores = [
        fmean(_held_out(sides.at(place), fit, seed + number) for number in range(REPEATS))
        for place in range(len(layers))
    ]
    best = max(range(len(layers)), key=lambda place: (scores[place], -place))
    null = _shuffled(sides, fit, seed)
    found["held_out_f1"] = by_name(scores, layers, site)
    found["null"] = {"shuffles": SHUFFLES, "held_out_f1": null}
    found["gate"] = gate(best)
    if scores[best] > null["mean"] + CLEARLY * null["sd"]:
        found["recommended"] = {**gate(best), "held_out_f1": scores[best]}
    else:
        found["reason"] = (
            f"at layer {layers[best]}, the held-out F1 of {scores[best]:.2f} is not clearly above "
            f"that with shuffled labels ({null['mean']:.2f} ± {null['sd']:.2f}): the prompts do "
            "not differ in a way that holds; give more of them, or another `settings.direction`"
        )
    return found


def _cut(sides: Sides, direction: torch.Tensor) -> Cut:
    return best_cut(*(similarity(side[:, 0], direction) for side in sides))


def _held_out(sides: Sides, fit: Fit, seed: int) -> float:
    """F1 of one layer's held-out samples, [samples, 1, hidden] a side."""
    known, unknown = split(sides, HELD_OUT, seed, paired=False)
    try:
        direction = fit(*known)[0]
    except ActivationsInvalid as error:
        if error.code != "identical_sides":
            raise
        return 0.0
    return f1_of(_cut(known, direction), *(similarity(side[:, 0], direction) for side in unknown))


def _shuffled(sides: Sides, fit: Fit, seed: int) -> dict[str, float]:
    """Mean and standard deviation of the best layer's held-out F1."""
    best = [0.0] * SHUFFLES
    # Layer by layer, since all layers' samples together may not fit into memory twice.
    for place in range(sides.positive.shape[1]):
        here = sides.at(place)
        for number in range(SHUFFLES):
            mixed = relabelled(here, seed + number, paired=False)
            best[number] = max(best[number], _held_out(mixed, fit, seed))
    return {"mean": fmean(best), "sd": stdev(best)}
