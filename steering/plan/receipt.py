"""Counts on their way from the worker, which adds, to the client.

Worker: `StepReport` on vLLM's step output. Scheduler: `WorkerNote` on a request's output. Front
end: `inbox.RECEIPTS`, where the HTTP layer reads the note under the plan's receipt name.

A note leaves with a request's first output, with each output that has news, and with the last. The
tokens that a plan steers are known in advance, so between two notes the front end counts by itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

import msgspec

from steersman.steering.plan.dynamic import Choice
from steersman.steering.plan.wire.readouts import ReadChunk


class Pace(NamedTuple):
    """How fast a dynamic answer and its companions progress, summed up to one step."""

    steps: int = 0
    """Engine steps since the answer's first token."""
    drafts: int = 0
    """Steps in which the companions computed a draft of the answer's next token."""
    kept: int = 0
    """Drafts that were the answer's next token."""


WAITING_KEY: Final = "steersman_waiting"
"""The key of `EngineCoreOutput.kv_transfer_params` that holds a `Waiting`, on an output that
belongs to no request."""


class Waiting(NamedTuple):
    """Steered requests that one engine keeps out of vLLM's queue."""

    engine: int
    """Which of the replicas."""
    rows: int
    """They wait for bank rows, or behind one that does."""
    load: int
    """They have their rows, and wait for a vector to be read."""


class GateCount(NamedTuple):
    """What the gate, or the marker, of one use of a vector did in one request so far."""

    tokens: int = 0
    """Tokens of the use's positions."""
    passed: int = 0
    """Those at which it passed."""
    decision: bool | None = None
    """Of a gate that is decided once: whether it passed; None before that."""
    value: float | None = None
    """What it measured then."""


class GateStep(NamedTuple):
    """A `GateCount` up to a step, with that step's own part, of which drafts may be rejected."""

    total: GateCount
    first: int
    """Token index of the first of `named` and `passed`."""
    named: bytes
    """For each of the step's tokens, 1 if it is of the use's positions, else 0."""
    passed: bytes
    """For each of them, 1 if the gate passed there, else 0."""

    def upto(self, stop: int) -> GateCount:
        """The count of the tokens below index `stop` alone.

        >>> GateStep(GateCount(5, 3), 10, bytes([1, 1, 1]), bytes([1, 0, 1])).upto(12)
        GateCount(tokens=4, passed=2, decision=None, value=None)
        """
        kept = max(0, stop - self.first)
        return self.total._replace(
            tokens=self.total.tokens - sum(self.named[kept:]),
            passed=self.total.passed - sum(self.passed[kept:]),
        )


class WorkerNote(NamedTuple):
    """What a worker did for one steered request, summed up to one step."""

    receipt: str
    steered_tokens: tuple[int, ...]
    """For each vector of the plan, how many tokens it was added to."""
    vectors_resident: int
    """Vectors with a row in the bank, in the first note of a request for which any was loaded; -1
    in every other."""
    load_seconds: tuple[float, ...]
    """Seconds for each vector that was read for this request first."""
    choices: tuple[Choice, ...] = ()
    """For a dynamic request: the coefficients of the tokens since its last note."""
    pace: Pace = Pace()
    """For a dynamic request; set by the scheduler."""
    reach: int = 0
    """The counts include the tokens before this index."""
    spans: tuple[tuple[int, int], ...] = ()
    """For each vector, the half-open interval of token indices that it steers; an empty one if it
    has a gate or a marker, since what these pass is not known in advance."""
    reads: tuple[ReadChunk, ...] = ()
    """What was read of the stream since its last note."""
    gates: tuple[GateCount, ...] = ()
    """Of each vector with a gate or a marker, in the order of the plan."""

    def advanced(self, tokens: int) -> Self:
        """This note after `tokens` more tokens (fewer if negative) have been computed."""
        reach = self.reach + tokens
        sign, lo, hi = (1, self.reach, reach) if tokens > 0 else (-1, reach, self.reach)
        more = steered_within(self.spans, lo, hi)
        counts = tuple(n + sign * m for n, m in zip(self.steered_tokens, more, strict=True))
        return self._replace(steered_tokens=counts, reach=reach)

    def to_wire(self) -> list[Any]:
        """A list of plain lists, numbers and bytes, for vLLM's message encoding."""
        return list(self)

    @classmethod
    def from_wire(cls, wire: list[Any]) -> Self:
        """Inverse of `to_wire`."""
        return msgspec.convert(wire, cls)

    def after(self, earlier: Self) -> Self:
        """This note, with the news of an `earlier` note of the same sequence added."""
        resident = self.vectors_resident if self.load_seconds else earlier.vectors_resident
        loads = earlier.load_seconds + self.load_seconds
        choices, reads = earlier.choices + self.choices, earlier.reads + self.reads
        return self._replace(
            vectors_resident=resident, load_seconds=loads, choices=choices, reads=reads
        )


def steered_within(spans: Iterable[tuple[int, int]], start: int, stop: int) -> tuple[int, ...]:
    """For each half-open interval of `spans`, how many of the indices [start, stop) lie in it."""
    return tuple(max(0, min(hi, stop) - max(lo, start)) for lo, hi in spans)


BANK_FULL: Final = "bank_full"
UNAVAILABLE: Final = "vector_unavailable"
NOT_FINITE: Final = "not_finite"
SLOW: Final = "library_slow"


class Refusal(NamedTuple):
    """Why the engine ended a steered request in error."""

    receipt: str
    code: str
    """`BANK_FULL`: too many wait for the bank, try again. `UNAVAILABLE`: a worker could not steer
    it, by no fault of the request. `NOT_FINITE`: its steered stream overflowed. `SLOW`: a vector
    was not read in time."""
    message: str

    def to_wire(self) -> dict[str, str]:
        """A dict of plain values, for vLLM's message encoding. (A note is a list there.)"""
        return self._asdict()


@dataclass
class StepReport:
    """One engine step's steering: the counts of each steered request that ran, and the requests
    that failed.

    If a model runs on several GPUs the report is pickled at every step, so what every request has
    in it is plain numbers.
    """

    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """For each vector of a request's plan, how many tokens it was added to, up to this step."""
    reach: dict[str, int] = field(default_factory=dict)
    """The counts of a request include the tokens before this index, also drafts (of speculative
    decoding). The scheduler takes off the drafts that were rejected."""
    choices: dict[str, tuple[Choice, ...]] = field(default_factory=dict)
    """For dynamic requests: the coefficients of the tokens since the step before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Request id -> why it could not be steered; such a request is ended, never run unsteered."""
    ill: list[str] = field(default_factory=list)
    """Ids of requests whose hidden states or logits are not finite; they are ended, and what they
    left in the cache is cleaned."""
    drafts: dict[str, int] = field(default_factory=dict)
    """By answer id, the draft that its companions computed in the step."""
    gates: dict[str, tuple[GateStep, ...]] = field(default_factory=dict)
    """For each request that ran: of each vector with a gate or a marker, in the order of the
    plan."""
    captured: dict[str, list[Any]] = field(default_factory=dict)
    """What was captured, by request:
    `steersman.steering.plan.capture.CaptureChunk`s."""
    read: dict[str, list[list[Any]]] = field(default_factory=dict)
    """What was read, by request: `ReadChunk`s in their wire form."""
