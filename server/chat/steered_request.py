"""One steered HTTP request from its field to its receipt."""

import asyncio
import contextlib
import secrets
import weakref
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, Self

from steersman.server.auth.library_view import LibraryView
from steersman.server.chat.field import SteeringField
from steersman.server.chat.in_flight import InFlight
from steersman.server.chat.reading.values import ReadValues
from steersman.server.chat.receipt import note
from steersman.server.chat.resolve import Resolved, resolve
from steersman.server.chat.trace import Answers, Trace
from steersman.server.chat.when.gates import counted
from steersman.server.doses import Doses
from steersman.server.errors import BankFull, LibrarySlow, NotSteered
from steersman.server.library.in_time import in_time
from steersman.server.metrics import METRICS, Outcome
from steersman.steering.plan import (
    BANK_FULL,
    NOT_FINITE,
    RECEIPTS,
    SLOW,
    BankKey,
    Limits,
    PlanInvalid,
    WorkerNote,
)
from steersman.vectors.errors import VectorNotFound

_REFUSALS: Final[dict[str, type[Exception]]] = {BANK_FULL: BankFull, SLOW: LibrarySlow}


class Origin(NamedTuple):
    """What says how a request is steered."""

    source: Literal["request", "model", "key", "server"] = "request"
    """Its field or header, the model name that it asks for, or a default of its key or of the
    server."""
    preset: str | None = None
    """The preset that was used."""


REQUEST: Final = Origin()


class SteeringContext(NamedTuple):
    """What a request's `steering` field is resolved with, and the counters that it enters."""

    library: LibraryView
    limits: Limits
    doses: Doses
    enforce_safe_range: bool
    in_flight: InFlight
    load_timeout: float
    """Seconds that the library may take, at most."""
    tokenizer: Any = None
    """Of the served model; None where it has none."""


class SteeredRequest:
    """Holds the bank rows, companions and receipt of one steered request, until it is closed.

    Guarantee: `close`, or else the garbage collection of the object, gives everything back, once.
    Assumption: these objects are made and closed on one event loop. Garbage collection may happen
    in any thread at any moment, so it takes no lock: it queues a call on that loop.
    """

    @classmethod
    async def begin(
        cls,
        context: SteeringContext,
        value: Any,
        answers: Answers,
        sampled: int | None = None,
        origin: Origin = REQUEST,
    ) -> Self:
        """Validate `value`, the `steering` of a request with `answers` sequences of at most
        `sampled` new tokens. Raises `PlanInvalid`, also for an unknown vector."""
        made = await in_time(context.load_timeout, resolved, context, value)
        return cls(context, made, answers, sampled, origin)

    def __init__(
        self,
        context: SteeringContext,
        made: Resolved,
        answers: Answers,
        sampled: int | None = None,
        origin: Origin = REQUEST,
    ) -> None:
        plan, receipt = made.plan, made.plan.receipt
        dynamic = plan.dynamic is not None
        rows, companions = plan.bank_keys, (len(plan.vectors) + 1) * answers.total if dynamic else 0
        ids = [part["id"] for part in made.draft]
        self.plan = plan
        divided = plan.dynamic is not None and plan.dynamic.mean
        self.trace = Trace(receipt, ids, answers, divided=divided) if dynamic else None
        """Of a dynamic request."""
        self.reads = (
            ReadValues(receipt, plan.readouts, made.reads, answers) if plan.readouts else None
        )
        """Of a request that reads."""
        self._draft = made.draft
        self._answers = answers
        self._origin = origin
        self._note = note(plan, sampled)
        context.in_flight.enter(rows, companions)
        RECEIPTS.open(receipt)
        held = (context.in_flight, receipt, rows, companions)
        self._held = held
        self._unclosed = weakref.finalize(self, _give_back_on, _loop(), *held)

    def refusal(self) -> Exception | None:
        """Why the request failed because of its steering; None if it did not. `PlanInvalid` if the
        front end refused the plan or the stream overflowed; `BankFull`, `LibrarySlow` or
        `NotSteered` if the engine ended the request."""
        if (invalid := RECEIPTS.rejection(self.plan.receipt)) is not None:
            return invalid
        said = RECEIPTS.refusal(self.plan.receipt)
        if said is None:
            return None
        if said.code == NOT_FINITE:
            return PlanInvalid(said.message, param="steering.vectors", code=NOT_FINITE)
        return _REFUSALS.get(said.code, NotSteered)(said.message)

    def was_steered(self) -> bool:
        """Whether a worker has reported on this request."""
        return bool(RECEIPTS.read(self.plan.receipt))

    def receipt(self) -> dict[str, Any]:
        """The current receipt; counts are summed over all answers (n, several prompts)."""
        by_sequence = RECEIPTS.by_sequence(self.plan.receipt)
        notes = list(by_sequence.values())
        totals = [sum(n.steered_tokens[k] for n in notes) for k in range(len(self._draft))]
        vectors = [
            {**draft, "steered_tokens": total}
            for draft, total in zip(self._draft, totals, strict=True)
        ]
        for n, index in enumerate(self.plan.conditional):
            if (gate := vectors[index].get("gate")) is not None:
                vectors[index]["gate"] = counted(gate, n, by_sequence, self._answers)
        dynamic = self.trace.whole() if self.trace else None
        pace = {} if self.trace is None else {"steps_per_token": _steps_per_token(notes)}
        reads = {} if self.reads is None else {"reads": self.reads.whole()}
        return {"vectors": vectors, "dynamic": dynamic, **pace, **reads, **self._rest()}

    def part(self, choice: int, start: int, stop: int) -> dict[str, Any]:
        """What a stream says of the tokens [start, stop) of a choice, counted from its first new
        token; empty where it says nothing."""
        found: dict[str, Any] = {}
        if self.trace is not None:
            found["dynamic"] = self.trace.part(choice, start, stop)
        if self.reads is not None and (reads := self.reads.part(choice, start, stop)):
            found["reads"] = reads
        return found

    def promise(self) -> dict[str, Any]:
        """The part of the receipt that is known before the first token: no counts, and for a
        dynamic request only that it is one."""
        reads = {} if self.reads is None else {"reads": len(self.plan.readouts)}
        dynamic = self.trace is not None
        return {"vectors": self._draft, "dynamic": dynamic, **reads, **self._rest()}

    def _rest(self) -> dict[str, Any]:
        kept = {"keep_norm": True} if self.plan.keep_norm else {}
        return {**kept, **self._origin._asdict(), **({"note": self._note} if self._note else {})}

    def close(self, outcome: Outcome) -> None:
        """Give everything back and count the outcome. Later calls do nothing."""
        if self._unclosed.detach() is not None:
            METRICS.observe(RECEIPTS.read(self.plan.receipt), outcome, self._origin.source)
            said = RECEIPTS.refusal(self.plan.receipt)
            METRICS.not_finite.inc(said is not None and said.code == NOT_FINITE)
            _give_back(*self._held)

    def release(self) -> None:
        """Give everything back and count nothing: of a run that no client asked for."""
        if self._unclosed.detach() is not None:
            _give_back(*self._held)


def _steps_per_token(notes: Sequence[WorkerNote]) -> float | None:
    """Engine steps for each token of these dynamic answers, without the first token of each."""
    tokens = sum(max(0, len(note.choices) - 1) for note in notes)
    return round(sum(note.pace.steps for note in notes) / tokens, 3) if tokens else None


def resolved(context: SteeringContext, value: Any) -> Resolved:
    """The plan for `value`, a `steering` field. Raises `PlanInvalid`, or what the library raises.
    Reads the library, so do not call it on the event loop."""
    field = SteeringField.read(value)
    library, limits, doses, enforce_safe_range, *_ = context
    try:
        return resolve(
            field,
            secrets.token_hex(8),
            library,
            limits,
            doses,
            enforce_safe_range,
            context.tokenizer,
        )
    except VectorNotFound as error:
        # No 404: clients take that for the model, and proxies for a deployment that is ill.
        param = error.param or "steering"
        raise PlanInvalid(error.message, param=param, code=error.code) from None


def _loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop, or None without one: then no other thread runs either."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _give_back_on(loop: asyncio.AbstractEventLoop | None, *held: Any) -> None:
    if loop is None:
        _give_back(*held)
        return
    # Of a loop that is closed nobody reads the counts any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_give_back, *held)


def _give_back(
    in_flight: InFlight, receipt: str, rows: frozenset[BankKey], companions: int
) -> None:
    RECEIPTS.close(receipt)
    in_flight.leave(rows, companions)
