"""Features of a sparse autoencoder, chosen by what they do on texts.

A text's activation of a feature is the largest over its tokens, without the first, whose
activations are massive. By contrast, features are chosen whose activation best tells positive texts
from negative ones, by the area under the curve (as AxBench chooses them: Wu et al. 2025, "AxBench:
Steering LLMs? Even Simple Baselines Outperform Sparse Autoencoders"), and of equals by the
difference of the means. By activation, those that are largest on the texts in the mean, which may
be features that are large on any text.

Some of tens of thousands of features tell few texts apart by chance. So a contrast is measured
twice: on the texts that the features are chosen by, and on texts held out; and with shuffled
labels.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import MIN_SAMPLES
from steersman.vectors.methods.quality.measures import HELD_OUT, LEAST_MEASURED, SHUFFLES
from steersman.vectors.methods.split import Sides, relabelled, split

CLEARLY: Final = 2.5
"""Standard deviations above the null."""


class Features(NamedTuple):
    """Consecutive features of an SAE."""

    first: int
    """Number of the first of them."""
    encoder: Tensor
    """float32 [features, hidden]."""
    bias: Tensor
    """float32 [features]."""
    threshold: Tensor
    """float32 [features], 0 for ReLU."""

    def activations(self, h: Tensor) -> Tensor:
        """act(e.h + b) for float32 `h` [tokens, hidden]: [tokens, features]."""
        z = h @ self.encoder.T + self.bias
        return torch.where(z > self.threshold, z, 0.0).clamp(min=0.0)


def strongest(tokens: Sequence[Tensor], blocks: Iterable[Features]) -> Tensor:
    """The largest activation of each feature over each text: float32 [texts, features].

    tokens: for each text float32 [tokens, hidden], the first token left out. Raises
    `ActivationsInvalid` for a text without tokens.
    """
    for n, one in enumerate(tokens):
        if not len(one):
            raise ActivationsInvalid(
                f"text {n} has no token but its first, which is not read; leave it out",
                code="too_few_rows", samples=[n],
            )  # fmt: skip
    # Block by block, so that no more than one is in memory.
    parts = [torch.stack([block.activations(one).amax(0) for one in tokens]) for block in blocks]
    return torch.cat(parts, dim=1)


def by_activation(texts: Tensor, count: int) -> dict[str, Any]:
    """The `count` features that are largest in the mean: JSON for a vector's metadata.

    texts: float32 [texts, features]. Raises `ActivationsInvalid` if fewer are ever active.
    """
    means = texts.to(torch.float64).mean(0)
    chosen = _first(means > 0, count, lambda n: (-float(means[n]), n), means)
    return {
        "by": "activation",
        "texts": len(texts),
        "features": [{"feature": n, "mean": float(means[n])} for n in chosen],
    }


def by_contrast(positive: Tensor, negative: Tensor, count: int, seed: int = 0) -> dict[str, Any]:
    """The `count` features that best tell the sides apart: JSON for a vector's metadata.

    positive, negative: float32 [texts, features]. `auroc` is of all texts; `held_out_auroc` is the
    area of the best feature by the other texts, on those held out; `null` is the same with shuffled
    labels. Both are missing with fewer than 4 texts a side. Raises `ActivationsInvalid`.
    """
    for side, name in ((positive, "positive"), (negative, "negative")):
        if len(side) < MIN_SAMPLES:
            raise ActivationsInvalid(
                f"{name} has {len(side)} texts; at least {MIN_SAMPLES} are needed",
                code="too_few_rows", param=name,
            )  # fmt: skip
    areas = aurocs(positive, negative)
    gains = positive.to(torch.float64).mean(0) - negative.to(torch.float64).mean(0)
    chosen = _first(gains > 0, count, lambda n: (-float(areas[n]), -float(gains[n]), n), areas)
    found: dict[str, Any] = {
        "by": "contrast",
        "texts": [len(positive), len(negative)],
        "seed": seed,
        "features": [
            {
                "feature": n,
                "auroc": float(areas[n]),
                "mean": [float(side[:, n].double().mean()) for side in (positive, negative)],
            }
            for n in chosen
        ],
    }
    if min(len(positive), len(negative)) < LEAST_MEASURED:
        found["reason"] = f"with fewer than {LEAST_MEASURED} texts a side nothing is held out"
        return found
    sides = Sides(positive[:, None], negative[:, None])
    found["held_out_auroc"] = _held_out(sides, seed)
    null = [_held_out(relabelled(sides, seed + n, paired=False), seed) for n in range(SHUFFLES)]
    found["null"] = {"shuffles": SHUFFLES, "auroc": {"mean": fmean(null), "sd": stdev(null)}}
    least = fmean(null) + CLEARLY * stdev(null)
    if not found["held_out_auroc"] > least:
        found["reason"] = (
            f"the best feature's area on texts held out, {found['held_out_auroc']:.2f}, is not "
            f"clearly above that with shuffled labels ({fmean(null):.2f} ± {stdev(null):.2f}): "
            "give more texts"
        )
    return found


def aurocs(positive: Tensor, negative: Tensor) -> Tensor:
    """For each feature, how often a positive text has more of it than a negative one, equals
    counting half: float64 [features]. positive, negative: [texts, features]."""
    found = torch.zeros(positive.shape[1], dtype=torch.float64)
    for one in positive:
        found += (one > negative).sum(0) + 0.5 * (one == negative).sum(0)
    return found / (len(positive) * len(negative))


def _held_out(sides: Sides, seed: int) -> float:
    known, unknown = (
        Sides(*(side[:, 0] for side in part)) for part in split(sides, HELD_OUT, seed, paired=False)
    )
    areas = aurocs(*known)
    gains = known.positive.double().mean(0) - known.negative.double().mean(0)
    near = (areas == areas.max()).nonzero()[:, 0]
    best = int(near[gains[near].argmax()])
    return float(aurocs(*(side[:, best : best + 1] for side in unknown)))


def _first(may: Tensor, count: int, order: Callable[[int], Any], scores: Tensor) -> list[int]:
    """The first `count` features of those that `may` be chosen."""
    if int(may.sum()) < count:
        raise ActivationsInvalid(
            f"{int(may.sum())} of {len(may)} features are active there, fewer than the {count} "
            "asked for; ask for fewer, or give more texts",
            code="too_few_rows", param="count",
        )  # fmt: skip
    # Only those as good as the last one are put in order: there are tens of thousands.
    least = scores[may].topk(count).values[-1]
    near = (may & (scores >= least)).nonzero()[:, 0].tolist()
    return sorted(near, key=order)[:count]
