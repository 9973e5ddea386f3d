"""Layers and doses of a demo vector, tried one by one, and the rule that picks among them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from bench.demo_generate import Job, answers, log_likelihoods
from bench.demo_measures import MEASURES, PROMPTS, repetition
from vectors.demo.activations import LoadedModel

LAYER_SETS = ((14,), (17,), (12, 14, 16, 18))
LAYERS = tuple(sorted({layer for layers in LAYER_SETS for layer in layers}))
DOSES = (0.1, 0.2, 0.3, 0.4)
# An answer may be this many times as perplexing to the unsteered model as its own, and may repeat
# this share of its three-word runs more than its own.
MOST_PERPLEXITY = 3.0
MOST_REPETITION = 0.15

RULE = (
    "A dose is the vector's length over the median norm of the residual stream at its layer; over "
    "n layers, each gets 1 / sqrt(n) of it. For each set of layers the largest dose is found up to "
    "which, in both directions, the perplexity of the answers under the unsteered model stays "
    f"within {MOST_PERPLEXITY} times that of its own answers, and repeated three-word runs within "
    f"{MOST_REPETITION} of its own. The set that moves the measure most between the two ends of "
    "that range is the default; half the largest dose is coefficient 1, the default, and the safe "
    "range is -2 to 2."
)


@dataclass(frozen=True)
class Point:
    """Means over the prompts at some layers and one dose; no layers: the unsteered model."""

    layers: tuple[int, ...]
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
    unit: dict[int, torch.Tensor],
    prompts: Sequence[str] = PROMPTS[::2],
) -> tuple[list[Point], list[list[str]]]:
    """Try `name` at every set of layers and signed dose; `unit[layer]`, [hidden], has dose 1.

    Returns the points, and the texts behind each.
    """
    grid: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    grid += [(layers, sign * dose) for layers in LAYER_SETS for sign in (-1, 1) for dose in DOSES]
    jobs = [
        Job(prompt, {layer: per_layer(dose, layers) * unit[layer] for layer in layers})
        for layers, dose in grid
        for prompt in prompts
    ]
    texts = answers(loaded, jobs)
    scores = log_likelihoods(loaded, [(job.prompt, t) for job, t in zip(jobs, texts, strict=True)])
    points, kept = [], []
    for i, (layers, dose) in enumerate(grid):
        part = slice(i * len(prompts), (i + 1) * len(prompts))
        points.append(
            Point(
                layers,
                dose,
                fmean(map(MEASURES[name].of, texts[part])),
                perplexity(scores[part]),
                fmean(map(repetition, texts[part])),
            )
        )
        kept.append(texts[part])
    return points, kept


def choose(points: Sequence[Point]) -> dict[str, Any]:
    """Apply `RULE`; raises `ValueError` if not even the smallest dose is fluent anywhere."""
    own = next(point for point in points if not point.layers)
    best: tuple[float, tuple[int, ...], float] | None = None
    for layers in sorted({point.layers for point in points if point.layers}):
        at = {point.dose: point for point in points if point.layers == layers}
        edge = 0.0
        for dose in sorted(dose for dose in at if dose > 0):
            if not all(_fluent(at[signed], own) for signed in (-dose, dose)):
                break
            edge = dose
        if edge:
            shift = at[edge].measure - at[-edge].measure
            if best is None or shift > best[0]:
                best = (shift, layers, edge)
    if best is None:
        raise ValueError("no dose keeps the text fluent")
    _, layers, edge = best
    return {
        "layers": list(layers),
        "unit_dose": round(per_layer(edge, layers) / 2, 4),
        "coefficient": 1.0,
        "safe_range": [-2.0, 2.0],
    }


def rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as JSON."""
    return [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(p).items()}
        for p in points
    ]


def _fluent(point: Point, own: Point) -> bool:
    return (
        point.perplexity <= MOST_PERPLEXITY * own.perplexity
        and point.repetition <= own.repetition + MOST_REPETITION
    )
