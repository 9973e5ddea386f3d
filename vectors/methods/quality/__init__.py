"""How good a vector is, from the samples it was made of, before any text is generated with it.

    measures.py         separation          AUROC of held-out samples along a direction fitted on
                                            the others; 0.5 is chance
                        split_half_cosine   cosine between the directions of two random halves
                        norms               length of the vector
                        relative_norms      length over the median ||h|| of the residual stream
                                            there: the relative dose of coefficient 1
    condition.py        of a condition for gates: its layer and threshold, and their F1
    recommendation.py   a layer and a coefficient to begin with, out of them

All measures are one number a layer. `relative_norms` and the recommendation need the model's median
norms.
"""

from collections.abc import Sequence
from typing import Any

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import Activations, stacked_sides
from steersman.vectors.methods.quality.condition import measure_condition
from steersman.vectors.methods.quality.measures import (
    LEAST_MEASURED,
    SHUFFLES,
    Fit,
    by_name,
    check_layers,
    norm_measures,
    separation,
    shuffled,
    split_half_cosine,
)
from steersman.vectors.methods.quality.recommendation import (
    DOSE,
    best_layer,
    doubt_of,
    middle_layer,
    recommend,
)
from steersman.vectors.methods.split import Sides

__all__ = [
    "DOSE",
    "LEAST_MEASURED",
    "measure",
    "measure_condition",
    "middle_layer",
    "norm_measures",
    "recommend",
    "separation",
    "split_half_cosine",
]


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
    it is not measured. Measures are keyed by tensor name, as `norms` in the metadata are. With
    fewer than 4 samples a side, nothing can be held out: the first two measures are missing.
    `recommended` is None where there is nothing to recommend, and `reason` is why. Raises
    `ActivationsInvalid`.
    """
    sides = Sides(*stacked_sides(positive, negative, paired=paired))
    check_layers(directions, len(layers), median_norms)
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
    found["separation"] = by_name(separated, layers, site)
    found["split_half_cosine"] = by_name(stable, layers, site)
    best = best_layer(
        lengths, layers=layers, num_layers=num_layers, separated=separated, stable=stable
    )
    null = shuffled(sides.at(best), fit, paired=paired, seed=seed)
    found["null"] = {"layer": layers[best], "shuffles": SHUFFLES, **null}
    doubt = doubt_of(null, separated[best], stable[best])
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
