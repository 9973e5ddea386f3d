"""Dynamic Activation Composition (Scalena, Sarti and Nissim 2024): its settings and companions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from steersman.steering.plan.errors import PlanInvalid

STREAM_KEY: Final = "steersman_stream"
"""The key of `SamplingParams.extra_args` of a companion: [id of its answer, its `stream`]. Only the
scheduler writes it."""

MAX_PROPERTIES: Final = 8
"""Most properties (vectors) of one dynamic request; each needs one more sequence."""


MAX_EVERY: Final = 64
"""The most tokens over which coefficients may be held."""


@dataclass(frozen=True)
class Dynamic:
    """How the coefficients of a dynamic request are computed. Each vector's own coefficient is its
    maximum."""

    start: float
    """Coefficient of a vector in its companion, where it steers alone."""
    top_p: float
    """Probability mass of the nucleus, 0 < top_p <= 1."""
    mean: bool
    """The divergence divided by the size of the nuclei's union, as in the paper's code; else the
    plain one, as in its text."""
    every: int = 1
    """Coefficients are computed for one in this many tokens of the answer, and held for the
    others."""
    starts: tuple[float, ...] = ()
    """`start` of each vector, if they differ; else empty."""
    top_ps: tuple[float, ...] = ()
    """`top_p` of each vector, if they differ; else empty."""

    def start_of(self, n: int) -> float:
        """The `start` of the n-th property, counted from 0."""
        return self.starts[n] if self.starts else self.start

    def renews(self, token: int) -> bool:
        """Whether coefficients are computed anew for token `n` of the answer, counted from 0."""
        return token % self.every == 0

    def check(self, properties: int) -> None:
        """Raise `PlanInvalid` for a setting that is not valid for this number of properties."""
        for listed in (self.starts, self.top_ps):
            if listed and len(listed) != properties:
                raise PlanInvalid("a plan has a start and a top_p for each vector, or for none")
        for start in (self.start, *self.starts):
            if not 0 <= start < math.inf:
                raise PlanInvalid(
                    "start must be a finite number, 0 or more", param="steering.dynamic.start"
                )
        for top_p in (self.top_p, *self.top_ps):
            if not 0 < top_p <= 1:
                raise PlanInvalid(
                    "top_p must be above 0 and at most 1", param="steering.dynamic.top_p"
                )
        if not 1 <= self.every <= MAX_EVERY:
            raise PlanInvalid(
                f"every must be a whole number from 1 to {MAX_EVERY}",
                param="steering.dynamic.every",
            )


class Companion(NamedTuple):
    """Identifies a companion: the answer that it belongs to, and its number among the
    companions."""

    answer: str
    """Id of the request whose companion it is."""
    stream: int
    """0: unsteered; n: the n-th vector alone, counted from 1."""

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self | None:
        """The companion that `extra_args` describe; None for a request of a client."""
        found = (extra_args or {}).get(STREAM_KEY)
        return None if found is None else cls(*found)


DRAFT: Final = -1
"""Stands for a token that the answer does not have yet, and of which the worker makes a draft."""


class LastToken(NamedTuple):
    """The last token that an answer or a companion computes in a step."""

    position: int
    """Its index in the request."""
    token: int
    """A token id; the scheduler sends `DRAFT` for a companion that runs ahead of its answer."""


class Choice(NamedTuple):
    """What was computed for one token of the answer, for each property."""

    coefficients: tuple[float, ...]
    divergences: tuple[float, ...]
