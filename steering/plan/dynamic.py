"""Dynamic Activation Composition: what a request sets, and the streams that it brings along."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from steersman.steering.plan.errors import PlanInvalid

STREAM_KEY: Final = "steersman_stream"
"""The key of `SamplingParams.extra_args` of a companion: [id of its answer, stream]. Only the
scheduler writes it."""

MAX_PROPERTIES: Final = 4
"""Properties of one dynamic request, each of which is one more sequence to compute."""


@dataclass(frozen=True)
class Dynamic:
    """How the coefficients of a dynamic request are found; each vector's own one is its cap."""

    start: float
    """Coefficient at which a property is tried alone."""
    top_p: float
    """Mass of the nucleus, 0 < top_p <= 1."""
    mean: bool
    """The divergence divided by the size of the nuclei's union, as in the paper's code; else the
    plain one, as in its text."""

    def check(self) -> None:
        """Raise `PlanInvalid` for a setting that is not valid."""
        if not 0 <= self.start < math.inf:
            raise PlanInvalid(
                "start must be a finite number, 0 or more", param="steering.dynamic.start"
            )
        if not 0 < self.top_p <= 1:
            raise PlanInvalid(
                "top_p must lie above 0 and be at most 1", param="steering.dynamic.top_p"
            )


class Companion(NamedTuple):
    """One more sequence over the tokens of an answer."""

    answer: str
    """Id of the request whose companion it is."""
    stream: int
    """0: unsteered; n: the n-th vector alone, counted from 1."""

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self | None:
        """The companion that `extra_args` describe; None for a request that a client made."""
        found = (extra_args or {}).get(STREAM_KEY)
        return None if found is None else cls(*found)


DRAFT: Final = -1
"""In place of a token that the answer does not have yet: the worker drafts it."""


class LastToken(NamedTuple):
    """The last token that a step computes of an answer or of one of its companions."""

    position: int
    """Its index in the request."""
    token: int
    """`DRAFT` from the scheduler, where the companion runs ahead of its answer."""


class Choice(NamedTuple):
    """What was found for one token of the answer, for each property."""

    coefficients: tuple[float, ...]
    divergences: tuple[float, ...]
