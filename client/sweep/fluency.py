"""How fluent text is: its perplexity under the unsteered model, and how much it repeats itself."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

RUN: Final = 3


def perplexity(answers: Iterable[Sequence[float]]) -> float:
    """exp of the mean negative log-probability (natural log) a token, over all tokens of all
    `answers`; NaN without any."""
    values = [value for answer in answers for value in answer]
    if not values:
        return math.nan
    mean = -math.fsum(values) / len(values)
    # vLLM sends -9999 for what is impossible.
    return math.exp(mean) if mean < 700 else math.inf


def repetition(tokens: Sequence[int]) -> float:
    """Share of runs of three tokens that occurred before. Perplexity cannot see loops: a model
    finds them ever easier to predict."""
    runs = [tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
