"""Steered requests in a worker: a plan becomes table entries, and a step's tokens are marked with
them.

Independent of vLLM: `steersman.steering.worker.batch` passes on which requests come, end and run.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steersman.steering.ops.terms import NO_COLUMN, Column, columns
from steersman.steering.plan.dynamic import Choice
from steersman.steering.plan.errors import PlanInvalid, VectorUnavailable
from steersman.steering.plan.limits import Limits, check_added
from steersman.steering.plan.plan import EVERY_STEP, BankKey, Plan, Segment
from steersman.steering.plan.receipt import StepReport
from steersman.steering.worker.bank import ZERO_ROW
from steersman.steering.worker.gating.search import MarkerSearch
from steersman.steering.worker.gating.uses import GatedUse, Part, StepTokens
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.tables import Mark, Tables
from steersman.vectors.parts import written_rows
from steersman.vectors.tensors import HookPoint

UNDECIDED = "a gate cannot be decided: its prompt came out of a cache"
"""Why a request failed."""


@dataclass
class Lease:
    """The bank rows and table entries of one request in the runner's batch."""

    rows: Mapping[BankKey, int]
    """Bank row of each of the plan's keys. Looked up by plain tuples, which are equal to the keys
    and ten times as fast to make: a heavy plan has thousands."""
    entries: list[int]
    """Table entry of each segment."""
    entries_written: set[int] = field(default_factory=set)
    """The `entries` that are written already. An entry is written when its segment is reached,
    because a request of many steps needs one at a time."""


@dataclass
class LiveRequest:
    """A steered request that vLLM has not finished."""

    plan: Plan
    prompt_tokens: int
    segments: tuple[Segment, ...]
    columns: tuple[int, ...]
    """For each vector, its number of columns in a token's gains (`Limits.columns`); empty if
    coefficients do not vary."""
    lease: Lease | None = None
    """What the request holds while it is in the batch; None before, and while it is preempted."""
    choices: list[Choice] = field(default_factory=list)
    """For a dynamic request: the coefficients of each token, from the last of the prompt on."""
    num_choices_reported: int = 0
    """How many of the choices have been reported."""
    gated: list[GatedUse] = field(default_factory=list)
    """Its uses with a gate or a marker."""
    counted_to: int = 0
    """Tokens below this index are counted already; a resumed request computes them again."""
    steered: list[int] = field(default_factory=list)


class SteeredRequests:
    """All steered requests of one worker, with the rows they hold.

    Guarantees: a request holds table entries and bank leases exactly while it is in the batch. A
    request that cannot be steered is reported in `StepReport.failed`, and never runs unsteered
    unnoticed: above all one whose vectors are not in the bank when it enters the batch, though
    the scheduler has them loaded ahead.
    """

    def __init__(
        self,
        tables: Tables,
        limits: Limits,
        slots: Mapping[HookPoint, int],
        bank: VectorBank,
        most_added: float = math.inf,
        own_slots: Mapping[HookPoint, int] | None = None,
    ) -> None:
        """`slots`: table slot of each hook point; `own_slots`: those of plans that read the stream,
        None where none does. `bank`: of these `tables`. `most_added`: the bound that `check_added`
        takes."""
        self.tables = tables
        self.limits = limits
        self.slots = slots
        self.own_slots = slots if own_slots is None else own_slots
        self.live: dict[str, LiveRequest] = {}
        self.failed: dict[str, str] = {}
        self.guessed = 0
        """How much later than in fact the first token that a request computes in a step may be said
        to be, behind the prompt: the most drafts of the step before that may have been rejected.
        Then `tables.guessed.positions` must be set."""
        self.most_added = most_added
        self.bank = bank.rows
        self._largest = bank.largest
        self._directions = bank.directions
        self._free_entries = list(range(tables.sizes.table_entries - 1, -1, -1))
        self._report: StepReport | None = None

    def start(
        self,
        request_id: str,
        extra_args: Mapping[str, object] | None,
        prompt: int,
        prompt_ids: Sequence[int] | None = None,
    ) -> None:
        """Track a new request with a prompt of `prompt` tokens, whose ids are `prompt_ids` (None
        for a prompt of embeddings). Its plan is validated once more; a request with an invalid plan
        is reported as failed."""
        try:
            plan = Plan.of(extra_args)
            if plan is None:
                return
            self.limits.check(plan, prompt)
            columns: tuple[int, ...] = ()
            if plan.varies:
                columns = tuple(self.limits.columns(v, own=plan.reads) for v in plan.vectors)
            self.live[request_id] = LiveRequest(
                plan, prompt, plan.segments(prompt), columns, steered=[0] * len(plan.vectors)
            )
            if plan.conditional:
                self.live[request_id].gated = self._gated(plan, prompt, prompt_ids)
        except PlanInvalid as error:
            self.live.pop(request_id, None)
            self.failed[request_id] = str(error)

    def _gated(self, plan: Plan, prompt: int, ids: Sequence[int] | None) -> list[GatedUse]:
        spans, found = plan.layout(prompt).spans, []
        for column, n in enumerate(plan.conditional, start=1):
            gate, marker = plan.vectors[n].gate, plan.vectors[n].marker
            slot = -1 if gate is None else self.own_slots[gate.point]
            search = None
            if marker is not None:
                if ids is None:
                    raise PlanInvalid("a marker is looked for among tokens, and there are none")
                search = MarkerSearch(marker, ids, self.tables.bank.device)
            found.append(GatedUse(n, column, gate, slot, search, spans[n]))
        return found

    def finish(self, request_ids: Iterable[str]) -> None:
        """Forget requests that ended, however they ended."""
        for request_id in request_ids:
            self.failed.pop(request_id, None)
            request = self.live.pop(request_id, None)
            if request is not None:
                self._leave_batch(request)

    def mark_failed(self, request_id: str, reason: str) -> None:
        """Forget a request, and report it as failed with `reason` from the next step on."""
        self._leave_batch(self.live.pop(request_id))
        self.failed[request_id] = reason

    def sync_batch(self, in_batch: Mapping[str, int]) -> None:
        """Match leases to the batch. Requests that left it give back their leases before others get
        one."""
        for request_id, request in self.live.items():
            if request.lease is not None and request_id not in in_batch:
                self._leave_batch(request)
        for request_id in list(self.live):
            request = self.live[request_id]
            if request.lease is None and request_id in in_batch:
                try:
                    self._enter_batch(request)
                except VectorUnavailable as error:
                    self.mark_failed(request_id, str(error))

    def step(
        self,
        spans: Iterable[tuple[str, int, int, int]],
        tokens: int,
        inputs: StepTokens | None = None,
    ) -> None:
        """Mark the steered tokens of a step with `tokens` tokens.

        `spans`: for each steered request in the batch, (request id, offset of its first token in
        the batch, how many tokens it computes, token index of the first in the request).
        `inputs`: the tokens themselves; needed for markers, and where `guessed` is not 0.
        """
        self.tables.begin_step()
        report = StepReport(failed=dict(self.failed))
        for request_id, offset, count, first in spans:
            request, end = self.live[request_id], first + count
            if request.gated:
                guessed = self.guessed > 0 and first > request.prompt_tokens
                part = Part(offset, first, end, request.prompt_tokens, inputs, guessed)
                if not self._measure(request_id, request, part):
                    self.mark_failed(request_id, UNDECIDED)
                    report.failed[request_id] = UNDECIDED
                    continue
            earliest = max(first - self.guessed, min(first, request.prompt_tokens))
            marks = []
            for segment, mark in self._marks(request_id, request, earliest, end):
                marks.append(mark)
                fresh = max(0, mark.stop - max(mark.start, first, request.counted_to))
                for n in segment.active:
                    request.steered[n] += fresh
            if earliest == first or _same_everywhere(marks, earliest, end):
                for mark in marks:
                    self._place(mark, offset - first, first)
            else:
                self.tables.mark_by_position(offset, offset + count, range(earliest, end), marks)
            request.counted_to = max(request.counted_to, end)
            report.counts[request_id] = tuple(request.steered)
            report.reach[request_id] = request.counted_to
            if len(request.choices) > request.num_choices_reported:
                report.choices[request_id] = tuple(request.choices[request.num_choices_reported :])
                request.num_choices_reported = len(request.choices)
        self.tables.commit(tokens)
        self._report = report

    def _measure(self, request_id: str, request: LiveRequest, part: Part) -> bool:
        """Have the gates of a request measured at its tokens of a step. False if one cannot be
        decided."""
        assert request.lease is not None, f"{request_id} computes tokens outside of the batch"
        rows = [
            ZERO_ROW
            if use.gate is None
            else request.lease.rows[use.gate.digest, *use.gate.point, EVERY_STEP]  # type: ignore[index]
            for use in request.gated
        ]
        return self.tables.gates.add(request_id, request.gated, rows, part)

    def _marks(
        self, request_id: str, request: LiveRequest, lo: int, hi: int
    ) -> Iterator[tuple[Segment, Mark]]:
        """What each segment adds at the request's token indices [lo, hi), its entry written."""
        lease = request.lease
        assert lease is not None, f"{request_id} computes tokens outside of the batch"
        for entry, segment in zip(lease.entries, request.segments, strict=True):
            start, stop = max(segment.start, lo), min(segment.stop, hi)
            if start < stop:
                if entry not in lease.entries_written:
                    self._write(request, lease, entry, segment)
                varies = request.plan.varies
                gains = _gains(request, segment, start, stop) if varies else None
                yield segment, Mark(start, stop, entry, gains)

    def _place(self, mark: Mark, offset: int, first: int) -> None:
        """Mark the tokens of `mark` from token index `first` on. `offset`: what is added to an
        index to get the token's place in the batch."""
        start = max(mark.start, first)
        gains = None if mark.gains is None else mark.gains[start - mark.start :]
        if start < mark.stop:
            self.tables.mark(offset + start, offset + mark.stop, mark.entry, gains)

    def reads_out(self, request_id: str) -> bool:
        """Whether the stream of this request is read for its client."""
        request = self.live.get(request_id)
        return request is not None and bool(request.plan.readouts)

    @property
    def active_slots(self) -> frozenset[int]:
        """Slots that the latest step steers."""
        return self.tables.active_slots

    @property
    def free_table_entries(self) -> int:
        """Number of table entries that no request holds."""
        return len(self._free_entries)

    def take_report(self) -> StepReport | None:
        """The report of the latest step; None on a second call for the same step."""
        report, self._report = self._report, None
        return report

    def _enter_batch(self, request: LiveRequest) -> None:
        rows = self.bank.lease(request.plan.bank_keys)
        try:
            check_added(request.plan, self._elements(request.plan, rows), self.most_added)
        except PlanInvalid as error:
            self.bank.release(rows)
            raise VectorUnavailable(str(error)) from error
        request.lease = Lease(rows, [self._free_entries.pop() for _ in request.segments])

    def _elements(self, plan: Plan, rows: Mapping[BankKey, int]) -> list[float]:
        """For each vector of `plan`, its value of `elements` for `most_added`."""
        found = []
        for vector in plan.vectors:
            steps = vector.row_steps[written_rows(vector.operation.name, len(vector.row_steps))]
            places = [
                max(self._largest[rows[vector.digest, *term, step]] for step in steps)  # type: ignore[index]
                for term in vector.terms
            ]
            found.append(sum(places))
        return found

    def _write(self, request: LiveRequest, lease: Lease, entry: int, segment: Segment) -> None:
        """Write what `segment` adds into table entry `entry`. If coefficients change from token to
        token, the entry has a coefficient of 1 for each term, and the token gains have the
        coefficients."""
        varies = request.plan.varies
        if request.plan.reads:
            self._write_reading(request, lease, entry, segment)
            return
        terms: dict[int, list[tuple[int, float]]] = {}
        column = 0
        for n, step in zip(segment.active, segment.steps, strict=True):
            vector = request.plan.vectors[n]
            for point in vector.terms:
                row = lease.rows[vector.digest, *point, step]  # type: ignore[index]
                pairs = terms.setdefault(self.slots[point], [])
                if varies:  # A column of the gains has the same vector at every layer.
                    pairs += [(ZERO_ROW, 0.0)] * (column - len(pairs))
                pairs.append((row, 1.0 if varies else vector.coefficient))
            if varies:
                column += request.columns[n]
        self.tables.write_entry(entry, terms)
        lease.entries_written.add(entry)

    def _write_reading(
        self, request: LiveRequest, lease: Lease, entry: int, segment: Segment
    ) -> None:
        """The same for a plan of which something depends on the stream."""
        plan = request.plan
        gates = {use.index: use.column for use in request.gated}
        found: dict[int, list[Column]] = {}
        column = 0
        for n, step in zip(segment.active, segment.steps, strict=True):
            vector = plan.vectors[n]
            steps = (step,) if vector.operation.adds else vector.row_steps
            for term, point in enumerate(vector.terms):
                rows = [
                    self._directions[lease.rows[vector.digest, *point, one]]  # type: ignore[index]
                    for one in steps
                ]
                own = found.setdefault(self.own_slots[point], [])
                if plan.varies:
                    own += [NO_COLUMN] * (column - len(own))
                coefficient = 1.0 if plan.varies else vector.coefficient
                made = columns(vector.operation, rows, coefficient, vector.bounds(term))
                gate = gates.get(n, 0)
                own += [one._replace(gate=gate) for one in made] if gate else made
            if plan.varies:
                column += request.columns[n]
        adds = not plan.keep_norm and all(
            plan.vectors[n].operation.adds and n not in gates for n in segment.active
        )
        if adds:
            self.tables.write_entry(
                entry,
                {slot: [(one.row, one.coefficient) for one in own] for slot, own in found.items()},
            )
        else:
            self.tables.write_reading_entry(entry, found, keep_norm=plan.keep_norm)
        lease.entries_written.add(entry)

    def _leave_batch(self, request: LiveRequest) -> None:
        lease, request.lease = request.lease, None
        if lease is not None:
            self._free_entries.extend(lease.entries)
            self.bank.release(lease.rows)


def _same_everywhere(marks: Sequence[Mark], start: int, stop: int) -> bool:
    """Whether `marks` add the same at each of the token indices [start, stop)."""
    if len(marks) != 1:
        return not marks
    lo, hi, _, gains = marks[0]
    return (lo, hi) == (start, stop) and (gains is None or bool((gains == gains[0]).all()))


def _gains(request: LiveRequest, segment: Segment, lo: int, hi: int) -> NDArray[np.float32]:
    """The coefficients of the segment's vectors at its tokens [lo, hi): float32 [hi - lo,
    columns]."""
    gains: NDArray[np.float32]
    if request.plan.dynamic is not None:
        first = 1 - request.prompt_tokens
        chosen = request.choices[first + lo : first + hi]
        gains = np.array([one.coefficients for one in chosen], dtype=np.float32)
    else:
        gains = request.plan.gains(segment, lo, hi, request.prompt_tokens)
    return gains.repeat([request.columns[n] for n in segment.active], axis=1)
