"""The direction without which a model no longer does something, from directional ablation.

Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction". Candidates are
the mean differences of prompts that call for the behaviour and prompts that do not, at each token
that the chat template has behind the instruction, and at each layer but the last fifth. Each is
projected out of the stream, at all layers and tokens, and the answers' first tokens are looked at.
Of the candidates that leave other prompts' answers as they are (a divergence of at most `MOST_KL`),
the one is chosen with which the behaviour is least: `log_odds` of the tokens that it begins with.

The paper names these tokens by hand ("I", for a refusal); `behaviour_tokens` finds them. It runs
all candidates, and also asks that the direction, added, brings the behaviour about, which is not
asked here.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch

from steersman.vectors.methods.activations import Activations, check_differ
from steersman.vectors.methods.mean_difference import mean_difference

MOST_KL: Final = 0.1
LAYERS: Final = 0.8
"""The part of the network's layers, from the first on, that candidates are of."""
MOST_TOKENS: Final = 20
LEAST_GAIN: Final = 0.01
"""Mean probability that a token of the behaviour has more on its own side, at least."""
_ODDS_FLOOR: Final = 1e-8
_KL_FLOOR: Final = 1e-6

LogProbs = Mapping[int, float]
"""Natural logarithms of the probabilities of some tokens, by id."""


class Trial(NamedTuple):
    """A candidate, and what came of projecting it out."""

    position: int
    """Of the token that it was read at, counted from the prompt's end: -1 is the last."""
    layer: int
    separation: float
    """See `separation_of`."""
    bypass: float
    """Mean `log_odds` of the behaviour's tokens, over held-out prompts that call for it."""
    kl: float
    """Mean `divergence` from the unsteered answers, over held-out prompts that do not."""


def unit_difference(positive: Activations, negative: Activations) -> torch.Tensor:
    """mean(positive) - mean(negative), each of length 1: float32 [places, hidden].

    positive, negative: samples [places, hidden], float32. Raises `ActivationsInvalid`.
    """
    wide = mean_difference(positive, negative).to(torch.float64)
    check_differ(wide.norm(dim=-1) > 0)
    found: torch.Tensor = (wide / wide.norm(dim=-1, keepdim=True)).to(torch.float32)
    return found


def separation_of(direction: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> float:
    """How far apart two groups are along a direction: the difference of their means over their
    common standard deviation.

    direction: [hidden]; positive, negative: [samples, hidden], at least two a side.
    """
    sides = [side.to(torch.float64) @ direction.to(torch.float64) for side in (positive, negative)]
    spread = float(torch.stack([side.var() for side in sides]).mean().sqrt())
    apart = float(sides[0].mean() - sides[1].mean())
    return apart / spread if spread > 0 else math.copysign(math.inf, apart)


def behaviour_tokens(positive: Sequence[LogProbs], negative: Sequence[LogProbs]) -> list[int]:
    """The tokens with which answers to `positive` begin more often than those to `negative`, the
    most telling first: at most `MOST_TOKENS`, each by `LEAST_GAIN` in mean probability. A token
    that is missing counts as 0."""
    gains: defaultdict[int, float] = defaultdict(float)
    for side, sign in ((positive, 1.0), (negative, -1.0)):
        for one in side:
            for token, logprob in one.items():
                gains[token] += sign * math.exp(logprob) / len(side)
    found = sorted(gains, key=lambda token: (-gains[token], token))
    return [token for token in found if gains[token] >= LEAST_GAIN][:MOST_TOKENS]


def log_odds(found: LogProbs, tokens: Sequence[int]) -> float:
    """log(p) - log(1 - p) of the probability that the next token is one of `tokens`."""
    p = math.fsum(math.exp(found[token]) for token in tokens if token in found)
    p = min(p, 1.0)
    return math.log(p + _ODDS_FLOOR) - math.log(1 - p + _ODDS_FLOOR)


def divergence(plain: LogProbs, changed: LogProbs) -> float:
    """Kullback-Leibler divergence of the next token, in nats, over the tokens of `plain` and all
    others together: at most that over the whole vocabulary."""
    pairs = [(math.exp(p), math.exp(changed[token])) for token, p in plain.items()]
    rest = tuple(max(0.0, 1 - math.fsum(side)) for side in zip(*pairs, strict=True))
    return math.fsum(
        p * (math.log(p + _KL_FLOOR) - math.log(q + _KL_FLOOR)) for p, q in (*pairs, rest)
    )


def best_trial(trials: Sequence[Trial]) -> tuple[Trial, bool]:
    """The trial of the direction to take, and whether it leaves other answers as they are; where
    none does, the one that changes them least."""
    sound = [trial for trial in trials if trial.kl <= MOST_KL]
    if sound:
        return min(sound, key=lambda trial: trial.bypass), True
    return min(trials, key=lambda trial: trial.kl), False
