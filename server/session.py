"""One steered HTTP request from its field to its receipt."""

import secrets
import weakref
from typing import Any, Self

from fastapi.concurrency import run_in_threadpool

from server.errors import BankFull, NotSteered
from server.metrics import METRICS
from server.resolve import Resolved, resolve
from server.state import Steersman
from server.steering_field import SteeringField
from server.trace import Answers, Trace
from steering.plan import BANK_FULL, DESK, Row


class Session:
    """Holds what a steered request holds: its bank rows, its companion streams and its place at the
    receipt desk.

    Guarantee: `close`, or else the collection of the session itself, gives everything back, once.
    """

    @classmethod
    async def begin(cls, app: Steersman, value: Any, answers: Answers) -> Self:
        """Validate `value`, the `steering` of a request that so many sequences answer. Raises
        `PlanInvalid` or `VectorNotFound`."""
        # In a thread: where the library's disk hangs, the others of the server must not.
        return cls(app, await run_in_threadpool(resolved, app, value), answers)

    def __init__(self, app: Steersman, made: Resolved, answers: Answers) -> None:
        plan, receipt = made.plan, made.plan.receipt
        dynamic = plan.dynamic is not None
        rows, companions = plan.rows(), (len(plan.vectors) + 1) * answers.total if dynamic else 0
        ids = [part["id"] for part in made.draft]
        self.plan = plan
        divided = plan.dynamic is not None and plan.dynamic.mean
        self.trace = Trace(receipt, ids, answers, divided=divided) if dynamic else None
        """Of a dynamic request."""
        self._draft = made.draft
        app.enter(rows, companions)
        DESK.open(receipt)
        self._give_back = weakref.finalize(self, _give_back, app, receipt, rows, companions)

    def refusal(self) -> Exception | None:
        """`BankFull` or `NotSteered` if the engine ended the request for that."""
        said = DESK.refusal(self.plan.receipt)
        if said is None:
            return None
        return BankFull(said.message) if said.code == BANK_FULL else NotSteered(said.message)

    def was_steered(self) -> bool:
        """Whether a worker has said what it did for this request."""
        return bool(DESK.read(self.plan.receipt))

    def receipt(self) -> dict[str, Any]:
        """The receipt as of now: counts are summed over all answers (n, several prompts)."""
        notes = DESK.read(self.plan.receipt)
        totals = [sum(n.steered_tokens[k] for n in notes) for k in range(len(self._draft))]
        vectors = [
            {**draft, "steered_tokens": total}
            for draft, total in zip(self._draft, totals, strict=True)
        ]
        return {"vectors": vectors, "dynamic": self.trace.whole() if self.trace else None}

    def close(self, outcome: str) -> None:
        """Give everything back and count the outcome; later calls do nothing."""
        if self._give_back.alive:
            METRICS.observe(DESK.read(self.plan.receipt), outcome)
            self._give_back()


def resolved(app: Steersman, value: Any) -> Resolved:
    """The plan for the field `value`. Reads the library, so: not on the event loop."""
    field = SteeringField.read(value)
    return resolve(field, secrets.token_hex(8), app.library, app.limits, app.doses)


def _give_back(app: Steersman, receipt: str, rows: frozenset[Row], companions: int) -> None:
    DESK.close(receipt)
    app.leave(rows, companions)
