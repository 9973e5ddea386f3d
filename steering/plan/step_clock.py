"""What captures cost the requests that share the engine's steps, as measured in the front end.

A step's outputs arrive together, with the time at which the step ended. Between two tokens of a
request that is not captured lies exactly one step. The cost of captures is how much longer a step
takes with them than without.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Final, NamedTuple

CAPTURE_PREFIX: Final = "capture-"
"""Names of requests that capture begin so."""
_SAMPLES: Final = 32
"""Of each kind, the last so many count: some seconds of a busy engine."""
_MOST_REQUESTS: Final = 4096
"""Requests whose last token is remembered; what left without a last output goes first."""


class Seen(NamedTuple):
    """One output of a step."""

    request_id: str
    ended: bool


class StepClock:
    """Means over the middle half of the last steps, in seconds; None until steps were measured. Not
    thread-safe: all calls come from the front end's event loop.

    `plain`: a step with other requests and no captures. `by_token`: what a token of a captured
    prompt adds to a step. `by_sequence`: what a captured sequence adds to each step behind its
    prompt.
    """

    # Of the step whose outputs are coming: what was captured in it, whether others were in it, and
    # the seconds since their tokens before.
    _tokens: int
    _sequences: int
    _others: bool
    _took: float

    def __init__(self) -> None:
        self._watchers = 0
        self._reset()

    def _reset(self) -> None:
        self._last: dict[str, float] = {}
        """When others' requests had their last token."""
        self._plain: deque[float] = deque(maxlen=_SAMPLES)
        self._by_token: deque[float] = deque(maxlen=_SAMPLES)
        self._by_sequence: deque[float] = deque(maxlen=_SAMPLES)
        self._at = self._before = -math.inf
        self._begin()

    @property
    def watched(self) -> bool:
        """Whether steps are being measured."""
        return self._watchers > 0

    @property
    def plain(self) -> float | None:
        return _middle(self._plain)

    @property
    def by_token(self) -> float | None:
        return _middle(self._by_token)

    @property
    def by_sequence(self) -> float | None:
        return _middle(self._by_sequence)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Measure steps inside this context. Earlier results are dropped, because load and machine
        change."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._reset()

    def note(self, at: float, outputs: Iterable[Seen], tokens: int = 0, sequences: int = 0) -> None:
        """Record outputs of the step that ended `at` (seconds of the engine's clock). A step may
        arrive in parts.

        `tokens`: tokens of captured prompts in the step; `sequences`: captured sequences behind
        their prompt. One of the parts has these numbers, the others have 0.
        """
        if at != self._at:
            self._end()
            self._before, self._at = self._at, at
        self._tokens, self._sequences = max(self._tokens, tokens), max(self._sequences, sequences)
        for seen in outputs:
            if not seen.request_id.startswith(CAPTURE_PREFIX):
                self._others = True
                before = self._last.pop(seen.request_id, None)
                if before is not None:
                    self._took = min(self._took, at - before)
                if not seen.ended:
                    self._last[seen.request_id] = at

    def _begin(self) -> None:
        self._tokens = self._sequences = 0
        self._others = False
        self._took = math.inf

    def _end(self) -> None:
        """Evaluate the step whose outputs have all arrived."""
        captured, plain = self._tokens + self._sequences, self.plain
        took = self._took if self._others else self._at - self._before
        if math.isfinite(took):
            if not captured:
                if self._others:
                    self._plain.append(took)
            elif plain is not None or not self._others:
                self._charge(took - (plain or 0.0 if self._others else 0.0))
        while len(self._last) > _MOST_REQUESTS:
            del self._last[next(iter(self._last))]
        self._begin()

    def _charge(self, added: float) -> None:
        if not self._tokens:
            self._by_sequence.append(added / self._sequences)
        else:
            added -= self._sequences * (self.by_sequence or 0.0)
            self._by_token.append(added / self._tokens)


def _middle(values: Collection[float]) -> float | None:
    """Mean of the middle half, at least 0: steps vary, so one with captures may be shorter."""
    if not values:
        return None
    cut = len(values) // 4
    return max(0.0, fmean(sorted(values)[cut : len(values) - cut]))
