"""The register of gates: in each step, which tokens each gated use of a request acts on.

A gate is measured when the forward pass comes to its hook point, before anything is changed there,
and its result stands in the register where the operations of later hook points read it. Nothing is
copied to the host before the step is over.
"""

import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steersman.steering.ops.gates import CAST, COSINE, MEASURING, PROJECTION, measured
from steersman.steering.plan.when.gates import MAX_GATES, Measure, PlannedGate
from steersman.steering.worker.finite import sent
from steersman.steering.worker.gating.counting import Counted, Measured
from steersman.steering.worker.gating.search import MarkerSearch
from steersman.steering.worker.gating.uses import GatedUse, Part

AT_ONCE: Final = 2**22
"""Most float32 values of bank rows that are gathered at once."""
_MEASURE: Final[Mapping[Measure, int]] = {"projection": PROJECTION, "cosine": COSINE, "cast": CAST}


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
    counted: list[Counted] = field(default_factory=list)
    positions: Tensor | None = None
    """[tokens] int64, where a part is guessed."""


class _Named(NamedTuple):
    """Tokens [start, stop) of the batch, which the positions of a use may name."""

    start: int
    stop: int
    flags: Tensor | None
    """bool [stop - start]: those of them that they do name; None: all."""


class Gates:
    """The gates of one worker. Assumption: as for `steersman.steering.worker.tables.Tables`; after
    `commit`, `measure` is called once at each of `slots`, before what is added there; by the
    operation itself where it runs, see `MEASURING`."""

    def __init__(self, bank: Tensor, tokens: int, addresses: Sequence[int]) -> None:
        """`bank` [rows, hidden] float32: its rows are what is measured with. `tokens`: the most of
        a step. `addresses`: by slot, the key in `MEASURING`."""
        self._bank = bank
        self._addresses = addresses
        # Another tensor may lie at the same address later.
        weakref.finalize(self, _forget, addresses)
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
            _forget([self._addresses[slot] for slot in self.slots])
            self.slots, self._step = frozenset(), _Step()
            self._prepared.clear()

    def add(
        self, request_id: str, uses: Sequence[GatedUse], rows: Sequence[int], part: Part
    ) -> bool:
        """Have the gates of a request's `uses` measured in this step, with these bank `rows`. False
        if one that is decided once cannot be, because tokens that it reads came out of a cache."""
        for search in (use.search for use in uses):
            if search is not None and search.in_prompt is None:
                _look(search, part)
        for use, row in zip(uses, rows, strict=True):
            start, stop, flags = _named(use, part)
            if start < stop:
                # What the positions name; a gate that is measured multiplies it.
                named: Tensor | float = 1.0 if flags is None else flags.float()
                if use.decision is not None:
                    named = named * use.decision[0]
                self.register[start:stop, use.column] = named
            if use.gate is not None and not use.gate.latched:
                if start < stop:
                    one = _Marked(start, stop, row, use.gate, use.column)
                    self._step.marked[use.slot].append(one)
            elif not self._read(use, row, part, (start, stop)):
                return False
            first = None if part.guessed else start - part.offset + part.first
            self._step.counted.append(Counted(request_id, use, start, stop, first, flags))
        if part.guessed and part.tokens is not None:
            self._step.positions = part.tokens.positions
        return True

    def _read(self, use: GatedUse, row: int, part: Part, governed: tuple[int, int]) -> bool:
        """Have a gate that is decided once read what there is to read in this step. False if
        something is missing."""
        gate = use.gate
        if gate is None or use.decision is not None:
            return True
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
        for slot in self.slots:
            MEASURING[self._addresses[slot]] = partial(_measure, weakref.ref(self), slot)
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
                at = some.tokens, some.columns
                passed = _passed(found, some.threshold, some.below)
                self.register[at] = self.register[at] * passed
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
            self.register[start:stop, use.column] *= passed

    def take(self) -> "Measured | None":
        """What the running step measured, to be read when it is over; None if nothing. Call when
        the forward pass is queued."""
        step = self._step
        if not step.counted:
            return None
        return Measured(step.counted, self.register, step.positions, sent)


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


def _measure(gates: "weakref.ref[Gates]", slot: int, hidden: Tensor, other: Tensor | None) -> None:
    if (found := gates()) is not None:
        found.measure(slot, hidden, other)


def _forget(addresses: Sequence[int]) -> None:
    for address in addresses:
        MEASURING.pop(address, None)


def _look(search: MarkerSearch, part: Part) -> None:
    """Look for a marker among the tokens of the answer that a step computes."""
    start = max(part.first, part.prompt_tokens)
    if start < part.stop:
        assert part.tokens is not None, "a marker is looked for in tokens that are not given"
        shift = part.offset - part.first
        ids, positions = part.tokens.part(start + shift, part.stop + shift)
        search.look(ids, positions, part.stop)


def _named(use: GatedUse, part: Part) -> _Named:
    """The tokens of a step that the positions of `use` may name."""
    shift, search = part.offset - part.first, use.search
    if part.guessed or (search is not None and search.in_prompt is None):
        assert part.tokens is not None, "tokens are named by positions that are not given"
        start, stop = part.offset, part.offset + part.stop - part.first
        positions = part.tokens.positions[start:stop]
        flags = (positions >= use.span[0]) & (positions < use.span[1])
        return _Named(start, stop, flags if search is None else flags & search.names(positions))
    span = use.span
    if search is not None:
        span = search.marker.span(search.in_prompt, part.stop)
    lo, hi = max(part.first, span[0]), min(part.stop, span[1])
    return _Named(lo + shift, max(lo, hi) + shift, None)


def _stream(hidden: Tensor, other: Tensor | None, tokens: Tensor | slice) -> Tensor:
    own = hidden[tokens].float()
    return own if other is None else own + other[tokens].float()


def _passed(values: Tensor, threshold: Tensor | float, below: Tensor) -> Tensor:
    """1.0 where the gate passes, else 0.0: float32."""
    return torch.where(below, values < threshold, values > threshold).float()
