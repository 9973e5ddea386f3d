"""The only process globals of steering: what vLLM's output processor delivers to the HTTP layer.

The two run in one process and share nothing else. Path: worker, scheduler, front end
(`steersman.steering.vllm.frontend`), this module, the code that opened the receipt.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from steersman.steering.plan.capture import Capture, CaptureChunk, CaptureResult
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.receipt import Refusal, Waiting, WorkerNote
from steersman.steering.plan.step_clock import StepClock


@dataclass
class _Sequence:
    note: WorkerNote
    """The latest."""
    tokens: int = 0
    """How many have come since."""

    def now(self) -> WorkerNote:
        return self.note.advanced(self.tokens) if self.tokens else self.note


class ReceiptInbox:
    """For each open receipt, the latest note of every sequence and the tokens since. Thread-safe.

    Assumption: the code that opens a receipt closes it. Guarantee: notes for a receipt that is not
    open are dropped, so requests whose receipt is not read leave nothing behind.
    """

    def __init__(self) -> None:
        self.guarded = False
        """Whether only plans with an open receipt may run: set by the HTTP server, whose clients
        must not write plans past its checks."""
        self._lock = threading.Lock()
        self._open: dict[str, dict[str, _Sequence]] = {}
        self._sequences: dict[str, _Sequence] = {}
        """Those of all open receipts."""
        self._refused: dict[str, Refusal] = {}
        self._invalid: dict[str, PlanInvalid] = {}

    def is_open(self, receipt: str) -> bool:
        """Whether notes under `receipt` are collected."""
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
                latest = _Sequence(note.after(earlier.note) if earlier else note)
                notes[sequence] = self._sequences[sequence] = latest

    def counts(self, sequence: str) -> bool:
        """Whether `sequence` has a note under an open receipt."""
        return sequence in self._sequences

    def advance(self, sequence: str, tokens: int) -> None:
        """Count an output with this number of new tokens and no note."""
        with self._lock:
            found = self._sequences.get(sequence)
            if found is not None:
                found.tokens += tokens

    def read(self, receipt: str) -> list[WorkerNote]:
        """The latest note of each sequence under `receipt`."""
        with self._lock:
            return [found.now() for found in self._open.get(receipt, {}).values()]

    def by_sequence(self, receipt: str) -> dict[str, WorkerNote]:
        """The latest notes under `receipt`, by the name of their sequence."""
        with self._lock:
            found = self._open.get(receipt, {})
            return {name: sequence.now() for name, sequence in found.items()}

    def refuse(self, refusal: Refusal) -> None:
        """Keep the reason why a sequence did not run."""
        with self._lock:
            if refusal.receipt in self._open:
                self._refused[refusal.receipt] = refusal

    def refusal(self, receipt: str) -> Refusal | None:
        """Why a sequence under `receipt` did not run; None if all ran."""
        return self._refused.get(receipt)

    def reject(self, receipt: str, error: PlanInvalid) -> None:
        """Keep the error that the front end found in the plan under `receipt`, because vLLM's own
        errors lose its code."""
        with self._lock:
            if receipt in self._open:
                self._invalid.setdefault(receipt, error)

    def rejection(self, receipt: str) -> PlanInvalid | None:
        """The error that the front end found in the plan under `receipt`; None if there was
        none."""
        return self._invalid.get(receipt)

    def close(self, receipt: str) -> None:
        """Forget `receipt`."""
        with self._lock:
            self._invalid.pop(receipt, None)
            for name, sequence in self._open.pop(receipt, {}).items():
                if self._sequences.get(name) is sequence:
                    del self._sequences[name]
            self._refused.pop(receipt, None)

    def __len__(self) -> int:
        return len(self._open)


class WaitingRequests:
    """How many steered requests wait, over all engines whose outputs come to this process."""

    def __init__(self) -> None:
        self._engines: dict[int, Waiting] = {}
        self.show: Callable[[int, int], None] = lambda rows, load: None
        """Called with how many wait for bank rows, and for a load, when that changes."""

    def note(self, waiting: Waiting) -> None:
        """Keep the latest of one engine."""
        self._engines[waiting.engine] = waiting
        every = self._engines.values()
        self.show(sum(one.rows for one in every), sum(one.load for one in every))


@dataclass
class _Entry:
    capture: Capture
    tokens: int = 0
    total: NDArray[np.float64] | None = None
    rows: list[NDArray[np.float32]] = field(default_factory=list)


class CaptureInbox:
    """Collects chunks by receipt name. Thread-safe.

    Assumption: the code that opens a receipt closes it. Guarantee: chunks for a receipt that is not
    open are dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Entry] = {}

    def is_open(self, receipt: str) -> bool:
        """Whether chunks under `receipt` are collected. A capture that is not open may not run."""
        return receipt in self._open

    def open(self, capture: Capture) -> None:
        """Start collecting the chunks of `capture`."""
        with self._lock:
            self._open[capture.receipt] = _Entry(capture)

    def deliver(self, chunk: CaptureChunk) -> None:
        """Add a chunk to its open capture."""
        with self._lock:
            entry = self._open.get(chunk.receipt)
            if entry is None:
                return
            values = np.frombuffer(chunk.values, np.float32)
            shaped = values.reshape(-1, len(entry.capture.terms), _hidden(entry.capture, chunk))
            entry.tokens += chunk.tokens
            if entry.capture.each:
                entry.rows.append(shaped)
            else:
                entry.total = shaped[0].astype(np.float64) + (
                    0.0 if entry.total is None else entry.total
                )

    def close(self, receipt: str) -> CaptureResult | None:
        """Stop collecting, and return what was collected; None if nothing was."""
        with self._lock:
            entry = self._open.pop(receipt, None)
        if entry is None or not entry.tokens:
            return None
        if entry.total is not None:
            return CaptureResult(entry.tokens, (entry.total / entry.tokens).astype(np.float32))
        return CaptureResult(entry.tokens, np.concatenate(entry.rows))


def _hidden(capture: Capture, chunk: CaptureChunk) -> int:
    rows = chunk.tokens if capture.each else 1
    return len(chunk.values) // (4 * rows * len(capture.terms))


RECEIPTS: Final = ReceiptInbox()
"""Notes and refusals of steered requests."""
WAITING: Final = WaitingRequests()
"""Who waits in the engines: for the metrics."""
CAPTURES: Final = CaptureInbox()
"""What was captured."""
STEPS: Final = StepClock()
"""How long steps take: noted by the front end, read by extraction."""
