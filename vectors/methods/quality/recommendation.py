"""A layer and a coefficient to begin with, out of the measures.

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
as many of their standard deviations as `CLEARLY` has. A vector that is fitted to noise is not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from steersman.vectors.errors import ActivationsInvalid

DOSE: Final = 0.15
DOSE_RANGE: Final = (0.1, 0.2)
MIDDLE: Final = (0.3, 0.7)
AS_GOOD: Final = 0.05
CLEARLY: Final = {"separation": 2.5, "split_half_cosine": 1.0}
"""Standard deviations above the mean of shuffled labels. Half the samples give a rougher
direction."""
_WORDS: Final = {"separation": "separation", "split_half_cosine": "split-half cosine"}


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

    Sequences run along `layers`. Without layers in the network's middle it takes all there are,
    and `basis` records that. Raises `ActivationsInvalid`.
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


def doubt_of(
    null: Mapping[str, Mapping[str, float]], separated: float, stable: float
) -> str | None:
    """Why there is not enough evidence for a direction; None if there is."""
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


def _candidates(norms: Sequence[float], depth: Sequence[float]) -> tuple[list[int], str]:
    """Indices of the layers that may be recommended, and a description of these."""
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
