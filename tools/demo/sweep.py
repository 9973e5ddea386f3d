"""Tries layers and doses of a demo vector one by one, and picks among them by a rule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import torch

from steersman.vectors.demo.activations import LoadedModel
from steersman.vectors.demo.defaults import READS, Read
from tools.demo.generate import Job, answers, log_likelihoods
from tools.demo.measures import MEASURES, PROMPTS, repetition

# An answer may be this many times as perplexing to the unsteered model as its own, and may repeat
# this share of its three-word runs more than its own.
MOST_PERPLEXITY = 4.0
MOST_REPETITION = 0.15

RULE = (
    "A dose is the vector's length over the median norm of the residual stream at its layer; over "
    "n layers, each gets 1 / sqrt(n) of it. Each way of reading the texts (at their last token, or "
    "as the mean over their tokens) and each set of layers is tried at each dose. A dose is fluent "
    "if, in both directions and at all smaller doses too, the perplexity of the answers under the "
    f"unsteered model stays within {MOST_PERPLEXITY} times that of its own answers, and repeated "
    f"three-word runs within {MOST_REPETITION} of its own. The fluent choice that moves the "
    "measure most between its two directions is taken: its dose is coefficient 2, so the default "
    "coefficient, 1, is half of it, and the safe range is -2 to 2."
)


class Variant(NamedTuple):
    """How the texts are read, and which layers are steered; no layers: the unsteered model."""

    read: Read
    layers: tuple[int, ...]


OWN = Variant("mean", ())


@dataclass(frozen=True)
class Grid:
    """What is tried: every way of reading the texts, at every set of layers, at every dose."""

    reads: tuple[Read, ...] = READS
    layer_sets: tuple[tuple[int, ...], ...] = ((16,), (12, 14, 16, 18))
    doses: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers of all sets."""
        return tuple(sorted({layer for layers in self.layer_sets for layer in layers}))

    def points(self) -> list[tuple[Variant, float]]:
        """Variants and signed doses, the unsteered model first."""
        return [(OWN, 0.0)] + [
            (Variant(read, layers), sign * dose)
            for read in self.reads
            for layers in self.layer_sets
            for sign in (-1, 1)
            for dose in self.doses
        ]


@dataclass(frozen=True)
class Point:
    """Means over the prompts for one variant at one signed dose."""

    variant: Variant
    dose: float
    measure: float
    perplexity: float
    repetition: float


def perplexity(scores: Sequence[tuple[float, int]]) -> float:
    """exp of the mean negative log-likelihood a token over all answers."""
    return math.exp(-sum(s for s, _ in scores) / max(1, sum(n for _, n in scores)))


def per_layer(dose: float, layers: Sequence[int]) -> float:
    """The part of `dose` that each of `layers` gets."""
    return dose / math.sqrt(max(1, len(layers)))


def sweep(
    loaded: LoadedModel,
    name: str,
    unit: Mapping[Read, Mapping[int, torch.Tensor]],
    grid: Grid,
    prompts: Sequence[str] = PROMPTS[::2],
) -> list[Point]:
    """Try `name` at every point of `grid`; `unit[read][layer]`, [hidden], has dose 1."""
    jobs = [
        Job(prompt, {at: per_layer(dose, layers) * unit[read][at] for at in layers})
        for (read, layers), dose in grid.points()
        for prompt in prompts
    ]
    texts = answers(loaded, jobs)
    scores = log_likelihoods(loaded, [(job.prompt, t) for job, t in zip(jobs, texts, strict=True)])
    points = []
    for i, (variant, dose) in enumerate(grid.points()):
        part = slice(i * len(prompts), (i + 1) * len(prompts))
        points.append(
            Point(
                variant,
                dose,
                fmean(map(MEASURES[name].of, texts[part])),
                perplexity(scores[part]),
                fmean(map(repetition, texts[part])),
            )
        )
    return points


def choose(points: Sequence[Point]) -> dict[str, Any]:
    """Apply `RULE`; raises `ValueError` if not even the smallest dose is fluent anywhere."""
    own = next(point for point in points if point.variant == OWN)
    choices: list[tuple[float, Variant, float]] = []
    for variant in sorted({point.variant for point in points} - {OWN}):
        at = {point.dose: point for point in points if point.variant == variant}
        for dose in sorted(dose for dose in at if dose > 0):
            if not all(_fluent(at[signed], own) for signed in (-dose, dose)):
                break
            choices.append((at[dose].measure - at[-dose].measure, variant, dose))
    if not choices:
        raise ValueError("no dose keeps the text fluent")
    _, variant, dose = max(choices, key=lambda choice: (choice[0], -choice[2]))
    return {
        "read": variant.read,
        "layers": list(variant.layers),
        "unit_dose": round(per_layer(dose, variant.layers) / 2, 4),
        "coefficient": 1.0,
        "safe_range": [-2.0, 2.0],
    }


def rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as JSON."""
    return [
        {
            "read": point.variant.read,
            "layers": list(point.variant.layers),
            "dose": point.dose,
            "measure": round(point.measure, 4),
            "perplexity": round(point.perplexity, 3),
            "repetition": round(point.repetition, 4),
        }
        for point in points
    ]


def _fluent(point: Point, own: Point) -> bool:
    return (
        point.perplexity <= MOST_PERPLEXITY * own.perplexity
        and point.repetition <= own.repetition + MOST_REPETITION
    )
