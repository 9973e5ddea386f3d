"""When the next text may go to the engine, so that extraction takes its share of it and no more.

While there are no other requests it takes the whole engine, in portions of at most `BITE_S`
seconds, so that a request that arrives waits no longer than that. While there are others, the share
is a share of time: after a text whose prefill takes the engine t seconds, the next one starts t /
share later. A step takes so many tokens of a text that it becomes at most 1 + share / (1 - share)
times as long (4/3 for a quarter); a longer text is cut up (`portion`). Another text may be in
flight only if all texts fit into one step under this rule. The cost of a text is measured on this
engine, while the others run (`steersman.steering.plan.step_clock`): now and then two steps pass
without a text, to compare with. Everything is decided by the clock, and not by the progress of the
other requests, so extraction progresses however many they are.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from steersman.server.extraction.examples import Example
from steersman.steering.plan.step_clock import StepClock

BITE_S: Final = 0.4
"""Engine time of the texts in flight while nobody else is there; a step takes half of it."""
LOOK_S: Final = 0.05
"""How often whoever waits looks whether things have changed."""
LEAST_OF_A_STEP: Final = 0.1
"""Of a step of others', what a text counts for at least: steps vary, and what is measured may be
nothing by chance."""
FIRST_PORTION: Final = 4
"""Tokens of a text in a step while nothing is measured; a portion is at most twice the last."""
STRETCH: Final = 10
"""Steps with texts, about, after which two go by without."""
UNKNOWN_S: Final = 0.005
"""What a token costs while nobody has measured it: much, so that the first texts are few."""


class Pace:
    """One job's pace. `share` in (0, 1]; `others()` returns the number of other requests in flight;
    `at_once` is the most texts in flight in any case."""

    def __init__(
        self, share: float, steps: StepClock, others: Callable[[], int], at_once: int
    ) -> None:
        self._share = share
        self._steps = steps
        self._others = others
        self._at_once = at_once
        self._next = 0.0
        self._latency: float | None = None
        self._portion = FIRST_PORTION
        self._flew = -math.inf
        """When texts were last in flight."""
        self._rest_at = time.monotonic() + STRETCH * LOOK_S

    def cost(self, example: Example) -> float:
        """Seconds of the engine's time that a text takes, as estimated from earlier steps."""
        new = max(0, example.stop - len(example.tokens))
        least = (self._steps.plain or 0.0) * LEAST_OF_A_STEP
        token, sequence = self._steps.by_token, self._steps.by_sequence
        if token is None:
            token = UNKNOWN_S if self._latency is None else self._latency
        if sequence is None:
            sequence = token
        return max(least, len(example.tokens) * token + new * sequence)

    def pause(self, cost: float, running: int, in_flight: float) -> float:
        """Seconds after which to ask again; 0: a text of this `cost` may start. `running` texts are
        in flight; together they cost `in_flight`."""
        if running:
            self._flew = time.monotonic()
        if not self._alone() and time.monotonic() >= self._rest_at:
            if running:
                return LOOK_S
            self._rest()
        if not running:
            bites = True
        elif running >= self._at_once:
            bites = False
        elif self._alone():
            bites = in_flight + cost <= BITE_S
        else:
            bites = in_flight + cost <= self._most_of_a_step()
        if not bites:
            return LOOK_S
        if self._alone():
            return 0.0
        return min(LOOK_S, max(0.0, self._next - time.monotonic()))

    def spend(self, cost: float) -> None:
        """Call when a text of this cost starts. Time that was not used is not saved up."""
        self._flew = time.monotonic()
        self._next = max(self._next, self._flew) + cost / self._share

    def portion(self) -> int:
        """Most tokens of the next text that a step takes while other requests run; 0: no limit. At
        least one, so that a text whose every token costs more than a step may be lengthened by
        still progresses."""
        if self._share >= 1:
            return 0
        token, plain = self._steps.by_token, self._steps.plain
        if token is not None and plain is not None:
            most = 2 * self._portion
            fits = most if not token else int(min(most, self._most_of_a_step() / token))
            self._portion = max(1, fits)
        return self._portion

    def took(self, example: Example, seconds: float) -> None:
        """Call when a text returns after `seconds`, the most that it can have cost, for use while
        nothing better is known."""
        tokens = max(len(example.tokens), example.stop)
        self._latency = seconds / tokens

    def _rest(self) -> None:
        """Let steps pass without texts. Call while no text is in flight; a text that started now
        would join the step that begins next."""
        ends = self._flew + 2 * (self._steps.plain or 0.0)
        self._next = max(self._next, ends)
        self._rest_at = max(ends, time.monotonic()) + STRETCH * (self._steps.plain or LOOK_S)

    def _alone(self) -> bool:
        return self._share >= 1 or self._others() <= 0

    def _most_of_a_step(self) -> float:
        """Seconds that captures may add to one step."""
        return self._share / (1 - self._share) * (self._steps.plain or 0.0)
