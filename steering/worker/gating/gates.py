"""The register of gates: in each step, which tokens each gated use of a request acts on.

A gate is measured when the forward pass comes to its hook point, before anything is changed there,
and its result stands in the register where the operations of later hook points read it. Nothing is
copied to the host before the step is over.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steersman.steering.ops.gates import CAST, COSINE, PROJECTION, measured
from steersman.steering.plan.receipt import GateCount
from steersman.steering.plan.when.gates import MAX_GATES, Measure, PlannedGate
from steersman.steering.plan.when.markers import MarkerSearch

AT_ONCE: Final = 2**22
"""Most float32 values of bank rows that are gathered at once."""
_MEASURE: Final[Mapping[Measure, int]] = {"projection": PROJECTION, "cosine": COSINE, "cast": CAST}
_NOTHING: Final = GateCount()


@dataclass
class GatedUse:
    """A use with a gate of one live request."""

    index: int
    """Of the vector in the plan."""
    column: int
    """Its own in the register, from 1 on."""
    gate: PlannedGate | None
    slot: int
    """Of the gate's hook point."""
    search: MarkerSearch | None
    """For the marker of its positions."""
    span: tuple[int, int]
    """Half-open interval of the token indices that the use steers."""
    decision: Tensor | None = None
    """float32 [2], of a gate that is decided once: 1 if it passed, else 0, and what it measured.
    None before the prompt's last token."""
    total: Tensor | None = None
    """float64 [hidden]: the sum of the stream over the prompt's first `summed` tokens."""
    summed: int = 0
    count: GateCount = _NOTHING
    """Up to the last step that is over."""


class Part(NamedTuple):
    """The tokens of a request that a step computes."""

    offset: int
    """Index in the batch of the first."""
    first: int
    """Its index in the request."""
    stop: int
    """Behind the index of the last one."""
    prompt_tokens: int
    counted_to: int
    """Tokens below this index were counted in an earlier step."""
    token_ids: Callable[[int, int], Sequence[int]] | None
    """The ids of the request's tokens [start, stop), also of those that are not in the step; None
    where the host does not know them."""


class _Marked(NamedTuple):
    """Tokens [start, stop) of the batch, at which a token's own gate is measured."""

    start: int
    stop: int
    row: int
    gate: PlannedGate
    column: int


class _Once(NamedTuple):
    """Tokens [start, stop) of the batch, which a gate that is decided once reads."""

    start: int
    stop: int
    row: int
    use: GatedUse
    gate: PlannedGate
    tokens: int
    """How many the mean is of."""
    governed: tuple[int, int] | None
    """Tokens [start, stop) of the batch that the decision is for; None if it is not made yet."""


@dataclass
class _Step:
    marked: dict[int, list[_Marked]] = field(default_factory=lambda: defaultdict(list))
    once: dict[int, list[_Once]] = field(default_factory=lambda: defaultdict(list))
    counted: list[tuple[str, GatedUse, int, int]] = field(default_factory=list)
    """(request id, use, first and last + 1 of the batch's tokens that are counted)."""


class Gates:
    """The gates of one worker. Assumption: as for `steersman.steering.worker.tables.Tables`; after
    `commit`, `measure` is called once at each of `slots`, before what is added there."""

    def __init__(self, bank: Tensor, tokens: int) -> None:
        """`bank` [rows, hidden] float32: its rows are what is measured with. `tokens`: the most of
        a step."""
        self._bank = bank
        self.register = torch.zeros(tokens, 1 + MAX_GATES, device=bank.device)
        """float32: by token and gated use, 1 where the use acts; column 0 is 1 for all tokens."""
        self.register[:, 0] = 1
        self.slots: frozenset[int] = frozenset()
        """Slots at which a gate is measured in the running step."""
        self._step = _Step()
        self._prepared: dict[int, _Prepared] = {}

    def begin_step(self) -> None:
        """Forget what the last step measured."""
        if self._step.counted:
            self.register[:, 1:] = 0
        if self.slots or self._step.counted:
            self.slots, self._step = frozenset(), _Step()
            self._prepared.clear()

    def add(
        self, request_id: str, uses: Sequence[GatedUse], rows: Sequence[int], part: Part
    ) -> bool:
        """Have the gates of a request's `uses` measured in this step, with these bank `rows`. False
        if one that is decided once cannot be, because tokens that it reads came out of a cache, or
        a marker cannot be looked for."""
        for use, row in zip(uses, rows, strict=True):
            span = use.span if use.search is None else _found(use.search, part)
            if span is None:
                return False
            lo, hi = max(part.first, span[0]), min(part.stop, span[1])
            shift = part.offset - part.first
            if use.gate is None:
                if lo < hi:
                    self.register[lo + shift : hi + shift, use.column] = 1
            elif not use.gate.latched:
                if lo < hi:
                    one = _Marked(lo + shift, hi + shift, row, use.gate, use.column)
                    self._step.marked[use.slot].append(one)
            elif use.decision is not None:
                if lo < hi:
                    self.register[lo + shift : hi + shift, use.column] = use.decision[0]
            elif not self._read(use, use.gate, row, part, (lo + shift, hi + shift)):
                return False
            fresh = max(lo, part.counted_to)
            self._step.counted.append((request_id, use, fresh + shift, max(fresh, hi) + shift))
        return True

    def _read(
        self, use: GatedUse, gate: PlannedGate, row: int, part: Part, governed: tuple[int, int]
    ) -> bool:
        last = part.prompt_tokens - 1
        start = use.summed if gate.over == "prompt_mean" else last
        if part.first > start:
            return False
        stop = min(part.stop, part.prompt_tokens)
        if start < stop:
            decides = stop == part.prompt_tokens
            shift = part.offset - part.first
            tokens = part.prompt_tokens if gate.over == "prompt_mean" else 1
            at = governed if decides else None
            one = _Once(start + shift, stop + shift, row, use, gate, tokens, at)
            self._step.once[use.slot].append(one)
            use.summed = stop
        return True

    def commit(self) -> None:
        """Take what was added as this step's."""
        step = self._step
        self.slots = frozenset(step.marked) | frozenset(step.once)
        device = self._bank.device
        self._prepared = {slot: _Prepared.of(ones, device) for slot, ones in step.marked.items()}

    def measure(self, slot: int, hidden: Tensor, other: Tensor | None) -> None:
        """Measure the gates at `slot` on the stream there, `hidden` + `other`, each [tokens,
        hidden] of any float dtype; `other` is None if the stream is in one part."""
        if (prepared := self._prepared.get(slot)) is not None:
            most = max(1, AT_ONCE // self._bank.shape[1])
            for first in range(0, len(prepared.tokens), most):
                some = prepared.part(slice(first, first + most))
                stream = _stream(hidden, other, some.tokens)
                found = measured(stream, self._bank[some.rows], some.measure, prepared.present)
                self.register[some.tokens, some.columns] = _passed(
                    found, some.threshold, some.below
                )
        for one in self._step.once.get(slot, ()):
            self._measure_once(one, hidden, other)

    def _measure_once(self, one: _Once, hidden: Tensor, other: Tensor | None) -> None:
        use, gate = one.use, one.gate
        stream = _stream(hidden, other, slice(one.start, one.stop)).double().sum(0)
        total = stream if use.total is None else use.total + stream
        if one.governed is None:
            use.total = total
            return
        use.total = None
        mean = (total / one.tokens).float().unsqueeze(0)
        kind = _MEASURE[gate.measure]
        how = torch.full((1,), kind, device=mean.device)
        value = measured(mean, self._bank[one.row].unsqueeze(0), how, (kind,))
        passed = _passed(value, gate.threshold, torch.full_like(how, gate.below, dtype=torch.bool))
        use.decision = torch.cat([passed, value])
        start, stop = one.governed
        if start < stop:
            self.register[start:stop, use.column] = passed

    def take(self) -> "Measured | None":
        """What the running step measured, to be read when it is over; None if nothing. Call when
        the forward pass is queued."""
        counted = self._step.counted
        if not counted:
            return None
        sums = torch.stack([self.register[lo:hi, use.column].sum() for _, use, lo, hi in counted])
        decisions = [use.decision for _, use, _, _ in counted]
        return Measured(counted, sums, decisions)


class Measured:
    """What a step measured."""

    def __init__(
        self,
        counted: Sequence[tuple[str, GatedUse, int, int]],
        sums: Tensor,
        decisions: Sequence[Tensor | None],
    ) -> None:
        self._counted, self._sums, self._decisions = counted, sums, decisions

    def read(self) -> dict[str, dict[int, GateCount]]:
        """By request id and index of the vector, the counts up to this step. Call once a step, in
        the order of the steps."""
        found: dict[str, dict[int, GateCount]] = defaultdict(dict)
        for (request_id, use, lo, hi), passed, decision in zip(
            self._counted, self._sums.tolist(), self._decisions, strict=True
        ):
            count = use.count._replace(
                tokens=use.count.tokens + hi - lo, passed=use.count.passed + round(passed)
            )
            if decision is not None:
                flag, value = decision.tolist()
                count = count._replace(decision=bool(flag), value=value)
            use.count = count
            found[request_id][use.index] = use.count
        return dict(found)


class _Prepared(NamedTuple):
    """The tokens at which gates of their own are measured, at one slot: n."""

    tokens: Tensor
    """[n] int64: indices in the batch."""
    columns: Tensor
    """[n] int64: of the register."""
    rows: Tensor
    """[n] int64: of the bank."""
    measure: Tensor
    """[n] int64."""
    threshold: Tensor
    """[n] float32."""
    below: Tensor
    """[n] bool."""
    present: frozenset[int]
    """All of `measure`."""

    @classmethod
    def of(cls, ones: Sequence[_Marked], device: torch.device) -> "_Prepared":
        counts = [one.stop - one.start for one in ones]

        def spread(values: Sequence[float], dtype: type) -> Tensor:
            return torch.from_numpy(np.repeat(np.array(values, dtype), counts)).to(device)

        tokens: NDArray[np.int64] = np.concatenate([np.arange(m.start, m.stop) for m in ones])
        kinds = [_MEASURE[one.gate.measure] for one in ones]
        return cls(
            torch.from_numpy(tokens).to(device),
            spread([one.column for one in ones], np.int64),
            spread([one.row for one in ones], np.int64),
            spread(kinds, np.int64),
            spread([one.gate.threshold for one in ones], np.float32),
            spread([one.gate.below for one in ones], np.bool_),
            frozenset(kinds),
        )

    def part(self, some: slice) -> "_Prepared":
        return _Prepared(
            self.tokens[some],
            self.columns[some],
            self.rows[some],
            self.measure[some],
            self.threshold[some],
            self.below[some],
            self.present,
        )


def _found(search: MarkerSearch, part: Part) -> tuple[int, int] | None:
    """The token indices that a marker names, as far as the step goes; None if nobody knows."""
    start = search.start(part.stop)
    if start is not None:
        if part.token_ids is None:
            return None
        search.look(start, part.token_ids(start, part.stop))
    return search.marker.span(search.found, part.stop)


def _stream(hidden: Tensor, other: Tensor | None, tokens: Tensor | slice) -> Tensor:
    own = hidden[tokens].float()
    return own if other is None else own + other[tokens].float()


def _passed(values: Tensor, threshold: Tensor | float, below: Tensor) -> Tensor:
    """1.0 where the gate passes, else 0.0: float32."""
    return torch.where(below, values < threshold, values > threshold).float()
