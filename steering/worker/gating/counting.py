"""Counting the tokens that gates pass, when a step is over."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steersman.steering.plan.receipt import GateCount, GateStep

if TYPE_CHECKING:
    from steersman.steering.worker.gating.uses import GatedUse

Sent = Callable[[Tensor], Callable[[], Tensor]]


class Tally:
    """What a use's gate passed, by token index. Tokens of the last step may have been drafts: those
    from the next step's first token on are taken back."""

    def __init__(self) -> None:
        self._settled = GateCount()
        self._settled_to = 0
        """Tokens below this index are counted for good: a resumed request computes them again."""
        self._first = 0
        """Index of the first token of the last step that is not settled."""
        self._named: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._passed: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def add(self, first: int, named: NDArray[np.bool_], passed: NDArray[np.bool_]) -> None:
        """Count a step's tokens from index `first` on: which of them the positions name, and which
        of these the gate passed."""
        kept = max(0, min(first - self._first, len(self._named)))
        self._settled = self._settled._replace(
            tokens=self._settled.tokens + int(self._named[:kept].sum()),
            passed=self._settled.passed + int(self._passed[:kept].sum()),
        )
        if kept:
            self._settled_to = self._first + kept
        again = max(0, self._settled_to - first)
        self._first = first + again
        self._named, self._passed = named[again:], passed[again:]

    def decide(self, passed: bool, value: float) -> None:
        """What a gate decided once, and what it measured."""
        self._settled = self._settled._replace(decision=passed, value=value)

    def step(self) -> GateStep:
        """The counts up to the last step."""
        total = self._settled._replace(
            tokens=self._settled.tokens + int(self._named.sum()),
            passed=self._settled.passed + int(self._passed.sum()),
        )
        return GateStep(total, self._first, self._named.tobytes(), self._passed.tobytes())


class Counted(NamedTuple):
    """Tokens [start, stop) of the batch, at which a use's gate is counted."""

    request_id: str
    use: "GatedUse"
    start: int
    stop: int
    first: int | None
    """Index in the request of the first; None where the device alone knows it."""
    named: Tensor | None
    """bool [stop - start]: which of them the positions name; None: all."""


class Measured:
    """What a step measured."""

    def __init__(
        self,
        counted: Sequence[Counted],
        register: Tensor,
        positions: Tensor | None,
        sent: Sent,
    ) -> None:
        """Call when the forward pass is queued. `register` [tokens, columns], `positions` [tokens]
        int64: of the step; `sent`: queues a copy to the host."""
        self._counted = counted
        flags = [register[one.start : one.stop, one.use.column] for one in counted]
        named = [
            torch.ones_like(passed) if one.named is None else one.named.float()
            for one, passed in zip(counted, flags, strict=True)
        ]
        self._flags = sent(torch.stack([torch.cat(flags), torch.cat(named)]))
        decisions = [one.use.decision for one in counted if one.use.decision is not None]
        self._decided = [one.use.decision is not None for one in counted]
        self._decisions = sent(torch.stack(decisions)) if decisions else None
        guessed = [one.start for one in counted if one.first is None]
        self._firsts = None
        if guessed:
            assert positions is not None, "tokens are counted at positions that are not set"
            self._firsts = sent(torch.stack([positions[start] for start in guessed]))

    def read(self) -> dict[str, dict[int, GateStep]]:
        """By request id and index of the vector, the counts up to this step. Waits for the step.
        Call once a step, in the order of the steps."""
        passed, named = self._flags().numpy() > 0.5
        decisions = iter([] if self._decisions is None else self._decisions().tolist())
        firsts = iter([] if self._firsts is None else self._firsts().tolist())
        found: dict[str, dict[int, GateStep]] = defaultdict(dict)
        at = 0
        for one, decided in zip(self._counted, self._decided, strict=True):
            stop = at + one.stop - one.start
            first = int(next(firsts)) if one.first is None else one.first
            tally = one.use.tally
            tally.add(first, named[at:stop], passed[at:stop])
            if decided:
                flag, value = next(decisions)
                tally.decide(bool(flag), value)
            found[one.request_id][one.use.index] = tally.step()
            at = stop
        return dict(found)
