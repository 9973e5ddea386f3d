"""Log-odds of two given answers, from the server's own log-probabilities. No text is judged."""

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.client.errors import WrongUsage
from steersman.client.sweep.ask import Answer
from steersman.client.sweep.measures.measure import Measure, Tokenize


class LogOdds:
    """ln p(one answer) - ln p(the other), at the first token of the answer.

    For an answer of several tokens the first one counts. Both log-probabilities are always there,
    however small, because these tokens are requested by id.
    """

    def __init__(self, one: str, other: str) -> None:
        self._answers = (one, other)
        self._ids: tuple[int, ...] = ()
        self.label = f"ln p({one!r}) - ln p({other!r})"
        self.fields: Mapping[str, Any] = {}

    async def prepare(self, tokenize: Tokenize) -> None:
        """Find the first token of each answer. Raises `WrongUsage` if it is the same one."""
        self._ids = tuple([(await tokenize(answer))[0] for answer in self._answers])
        if len(set(self._ids)) == 1:
            raise WrongUsage(
                f"{self._answers[0]!r} and {self._answers[1]!r} begin with the same token, so "
                "give two that begin differently",
                param="--measure",
            )
        self.fields = {
            "logprobs": True,
            "logprob_token_ids": list(self._ids),
            "return_tokens_as_token_ids": True,
        }

    async def of(self, answer: Answer) -> float | None:
        one, other = (answer.first.get(token, math.nan) for token in self._ids)
        odds = one - other
        return odds if math.isfinite(odds) else None

    async def close(self) -> None:
        """Nothing to close."""


def log_odds(argument: str) -> Measure:
    """`" Yes"," No"`: two answers in double quotes; a space inside them counts."""
    answers = _two(argument)
    if answers is None or not all(answers):
        raise WrongUsage(
            f'logodds:{argument} does not name two answers; write \'logodds:"Yes","No"\'',
            param="--measure",
        )
    return LogOdds(*answers)


def _two(argument: str) -> Sequence[str] | None:
    try:
        found = next(csv.reader([argument], strict=True), [])
    except csv.Error:
        return None
    return found if len(found) == 2 else None
