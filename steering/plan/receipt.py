"""Counts on their way from the worker that added to the client that asked.

Worker -> `StepReport` on vLLM's step output -> `WorkerNote` on each request's output -> the
front-end's `ReceiptDesk`, where the HTTP layer collects it under the plan's receipt name.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from steersman.steering.plan.dynamic import Choice
from steersman.steering.plan.errors import PlanInvalid


class WorkerNote(NamedTuple):
    """What a worker says about one steered request, cumulative up to one step."""

    receipt: str
    steered_tokens: tuple[int, ...]
    """For each vector of the plan, how many tokens it was added to."""
    vectors_resident: int
    """Vectors with a row in the bank after this request's loads; -1 if it loaded nothing."""
    load_seconds: tuple[float, ...]
    """How long each vector took that this request brought into the bank, on its first step."""
    choices: tuple[Choice, ...] = ()
    """Of a dynamic request: what was found for the tokens since its last note."""

    def without(self, excess: tuple[int, ...]) -> Self:
        """This note with so many tokens less for each vector."""
        kept = (a - b for a, b in zip(self.steered_tokens, excess, strict=True))
        return self._replace(steered_tokens=tuple(kept))

    def to_wire(self) -> list[Any]:
        """Plain lists and numbers, for vLLM's message encoding."""
        return list(self)

    @classmethod
    def from_wire(cls, wire: list[Any]) -> Self:
        """Inverse of `to_wire`."""
        receipt, tokens, vectors, loads, choices = wire
        chosen = tuple(Choice(tuple(c), tuple(d)) for c, d in choices)
        return cls(receipt, tuple(tokens), vectors, tuple(loads), chosen)

    def after(self, earlier: Self) -> Self:
        """This note with what only `earlier` ones of the same sequence said."""
        resident = self.vectors_resident if self.load_seconds else earlier.vectors_resident
        loads = earlier.load_seconds + self.load_seconds
        choices = earlier.choices + self.choices
        return self._replace(vectors_resident=resident, load_seconds=loads, choices=choices)


BANK_FULL: Final = "bank_full"
UNAVAILABLE: Final = "vector_unavailable"
NOT_FINITE: Final = "not_finite"


class Refusal(NamedTuple):
    """What the engine says of a steered request that it ended in error."""

    receipt: str
    code: str
    """`BANK_FULL`: too many wait for the bank, try again. `UNAVAILABLE`: a worker could not steer
    it, by no fault of the request. `NOT_FINITE`: its steered stream overflowed."""
    message: str

    def to_wire(self) -> dict[str, str]:
        """For vLLM's message encoding; a note is a list there."""
        return self._asdict()


@dataclass
class StepReport:
    """One engine step's steering: a note for each steered request that ran, and who must fail."""

    notes: dict[str, WorkerNote] = field(default_factory=dict)
    reach: dict[str, int] = field(default_factory=dict)
    """For each note, the token index that its counts end before. Drafts are counted with the
    tokens: which of them the answer keeps is known to the scheduler, which takes off the others."""
    failed: dict[str, str] = field(default_factory=dict)
    """Request id -> why it could not be steered; such a request is ended, never run unsteered."""
    ill: list[str] = field(default_factory=list)
    """Ids of requests whose hidden states or logits are not finite; they are ended, and what they
    left in the cache is cleaned."""
    captured: dict[str, list[Any]] = field(default_factory=dict)
    """What was captured of requests that are listened to:
    `steersman.steering.plan.capture.CaptureChunk`s."""


class ReceiptDesk:
    """Latest note of every sequence, by receipt name. One desk a process; thread-safe.

    Assumption: whoever opens a receipt closes it. Guarantee: notes for a receipt that is not open
    are dropped, so requests that nobody collects leave nothing behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, dict[str, WorkerNote]] = {}
        self._refused: dict[str, Refusal] = {}
        self._invalid: dict[str, PlanInvalid] = {}

    guarded = False
    """Whether only plans with an open receipt may run: set by the HTTP server, whose clients must
    not write plans past its checks."""

    def is_open(self, receipt: str) -> bool:
        """Whether somebody collects notes under `receipt`."""
        return receipt in self._open

    def open(self, receipt: str) -> None:
        """Start collecting notes under `receipt`."""
        with self._lock:
            self._open[receipt] = {}

    def deliver(self, sequence: str, note: WorkerNote) -> None:
        """Keep `note` as the latest of `sequence` (one of the n answers to a request)."""
        with self._lock:
            notes = self._open.get(note.receipt)
            if notes is not None:
                earlier = notes.get(sequence)
                notes[sequence] = note.after(earlier) if earlier else note

    def read(self, receipt: str) -> list[WorkerNote]:
        """Latest note of each sequence under `receipt`."""
        with self._lock:
            return list(self._open.get(receipt, {}).values())

    def by_sequence(self, receipt: str) -> dict[str, WorkerNote]:
        """The same, under the name of each sequence."""
        with self._lock:
            return dict(self._open.get(receipt, {}))

    def refuse(self, refusal: Refusal) -> None:
        """Keep why one of the sequences under a receipt did not run."""
        with self._lock:
            if refusal.receipt in self._open:
                self._refused[refusal.receipt] = refusal

    def refusal(self, receipt: str) -> Refusal | None:
        """Why a sequence under `receipt` did not run, if one did not."""
        return self._refused.get(receipt)

    def reject(self, receipt: str, error: PlanInvalid) -> None:
        """Keep what the front end found wrong with the plan under `receipt`: on its way through
        vLLM's own errors the code is lost."""
        with self._lock:
            if receipt in self._open:
                self._invalid.setdefault(receipt, error)

    def rejection(self, receipt: str) -> PlanInvalid | None:
        """What was found wrong with the plan under `receipt`, if anything was."""
        return self._invalid.get(receipt)

    def close(self, receipt: str) -> None:
        """Forget `receipt`."""
        with self._lock:
            self._invalid.pop(receipt, None)
            self._open.pop(receipt, None)
            self._refused.pop(receipt, None)

    def __len__(self) -> int:
        return len(self._open)


DESK = ReceiptDesk()
"""This process's desk: vLLM's output processor delivers here, the HTTP layer reads."""
