"""The tensors that the operation reads. They are allocated once, before vLLM's profile run."""

import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steersman.steering.ops.addition import IDLE, Marked, sums
from steersman.steering.ops.operations import READS, Terms, gated
from steersman.steering.ops.terms import KEEP_NORM, KIND, NO_COLUMN, SCALARS, Column
from steersman.steering.worker.bank import ZERO_ROW
from steersman.steering.worker.gating.gates import Gates
from steersman.steering.worker.staging import GuessedTokens, StagedRows, StagedTokens

_AT_ONCE = 2**21
"""Most float32 values that `added` computes at once for slots that are still to come."""


@dataclass(frozen=True)
class TableSizes:
    """Sizes of the tables. `slots`: hook points with an operation of their own; `terms`: K, the
    most terms of a table entry at one slot; `tokens`: the most tokens of a step."""

    slots: int
    table_entries: int
    terms: int
    bank_rows: int
    hidden: int
    tokens: int
    reading: bool = False
    """Whether terms may read the stream."""


class Mark(NamedTuple):
    """Token indices [start, stop) of a request, and what is added there."""

    start: int
    stop: int
    entry: int
    gains: NDArray[np.float32] | None
    """[stop - start, <= K]: for each token, what the coefficient of each term is multiplied by;
    None for 1."""


class Tables:
    """The tensors of one worker.

    `bank` [1 + bank_rows, hidden] float32; `index` int32 and `coefficient` float32, both [slots,
    entries, K]; `token_entry` [tokens] int32 and `token_gain` [tokens, K] float32, which are
    written through `StagedTokens`. Where terms may read the stream, also `reads` int32 [slots,
    entries, K], `scalars` float32 [slots, entries, K, SCALARS] and `gate` uint8 [slots, entries,
    K], each term's column of `gates.register`; these are written for entries with such terms alone,
    and their tokens have `READS` added to the entry.
    """

    def __init__(self, sizes: TableSizes, device: torch.device) -> None:
        self.sizes = sizes
        shape = (sizes.slots, sizes.table_entries, sizes.terms)
        self.bank = torch.zeros(1 + sizes.bank_rows, sizes.hidden, device=device)
        self.index = torch.full(shape, ZERO_ROW, dtype=torch.int32, device=device)
        self.coefficient = torch.zeros(shape, device=device)
        own = shape if sizes.reading else (0, *shape[1:])
        self.reads = torch.full(own, ZERO_ROW, dtype=torch.int32, device=device)
        self.scalars = torch.zeros(*own, SCALARS, device=device)
        self.gate = torch.zeros(own, dtype=torch.uint8, device=device)
        self.gates = Gates(self.bank, sizes.tokens, [part.data_ptr() for part in self.index])
        self.token_entry = torch.full((sizes.tokens,), -1, dtype=torch.int32, device=device)
        self.token_gain = torch.ones(sizes.tokens, sizes.terms, device=device)
        # Another tensor may lie at the same address later.
        weakref.finalize(self, IDLE.discard, self.token_entry.data_ptr())
        self._bank_rows = StagedRows.on(self.bank)
        self._indices = StagedRows.on(self.index, dim=1)
        self._coefficients = StagedRows.on(self.coefficient, dim=1)
        self._reads = StagedRows.on(self.reads, dim=1)
        self._scalars = StagedRows.on(self.scalars, dim=1)
        self._gate = StagedRows.on(self.gate, dim=1)
        self._staged = StagedTokens.on(self.token_entry)
        self._staged_gains = StagedTokens.on(self.token_gain, rest=1)
        self._marks: list[tuple[int, int, int]] = []
        self._gains: dict[int, np.ndarray] = {}
        self.guessed = GuessedTokens(device)
        self.width = 1
        """Most terms of a table entry so far, at most K: the columns behind need not be read."""
        self.marked: Marked | None = None
        """The step's marked tokens as indices, if the tables are on the CPU and the host knows the
        position of each; without those whose entries read the stream."""
        self.marked_reading: Marked | None = None
        """The same of those whose entries read the stream."""
        self._reading: dict[int, frozenset[int]] = {}
        """Table entries with terms that read the stream, and the kinds of their terms."""
        self._gated: set[int] = set()
        """Table entries with terms that have a gate."""
        self.is_gated = False
        """Whether one of them is in the running step."""
        self.reading_kinds: frozenset[int] = frozenset()
        """Kinds of the terms of `marked_reading`."""
        self._slots_of: dict[int, frozenset[int]] = {}
        """Slots at which each table entry has terms."""
        self.active_slots: frozenset[int] = frozenset()
        """Slots at which a token of the step is steered."""
        self.adding_slots: frozenset[int] = frozenset()
        """Those at which one is whose entry only adds."""
        self.reading_slots: frozenset[int] = frozenset()
        """Those at which one is whose entry reads the stream."""
        self._ahead: set[int] = set()
        """Active slots that the forward pass has not reached yet."""
        self._added: dict[int, Tensor] = {}

    def fill_bank(self, row: int, vector: Tensor) -> None:
        """Write `vector` [hidden] float32, on the host, to bank row `row` with the next commit."""
        self._bank_rows.put(row, vector)

    def write_entry(self, entry: int, terms: dict[int, list[tuple[int, float]]]) -> None:
        """Set table entry `entry` with the next commit: for each slot, its (bank row, coefficient)
        terms."""
        self._slots_of[entry] = frozenset(terms)
        self._reading.pop(entry, None)
        slots, _, width = self.index.shape
        index = np.full((slots, width), ZERO_ROW, dtype=np.int32)
        coefficient = np.zeros((slots, width), dtype=np.float32)
        for slot, pairs in terms.items():
            self.width = max(self.width, len(pairs))
            index[slot, : len(pairs)] = [bank_row for bank_row, _ in pairs]
            coefficient[slot, : len(pairs)] = [c for _, c in pairs]
        self._indices.put(entry, torch.from_numpy(index))
        self._coefficients.put(entry, torch.from_numpy(coefficient))

    def write_reading_entry(
        self, entry: int, columns: dict[int, list[Column]], *, keep_norm: bool = False
    ) -> None:
        """Set table entry `entry`, of which a term reads the stream, with the next commit: for each
        slot its columns. `keep_norm`: the stream has the norm there that it had."""
        self._slots_of[entry] = frozenset(columns)
        kinds = {int(one.scalars.kind) for found in columns.values() for one in found}
        self._reading[entry] = frozenset({*kinds, KEEP_NORM} if keep_norm else kinds)
        gated = any(one.gate for found in columns.values() for one in found)
        has_gates = gated or entry in self._gated
        (self._gated.add if gated else self._gated.discard)(entry)
        slots, _, width = self.index.shape
        index = np.full((slots, width), ZERO_ROW, dtype=np.int32)
        gate = np.zeros((slots, width), dtype=np.uint8)
        reads = np.full((slots, width), ZERO_ROW, dtype=np.int32)
        coefficient = np.zeros((slots, width), dtype=np.float32)
        scalars = np.zeros((slots, width, SCALARS), dtype=np.float32)
        scalars[:, :] = NO_COLUMN.scalars
        for slot, found in columns.items():
            count = len(found)
            self.width = max(self.width, count)
            index[slot, :count] = [column.row for column in found]
            reads[slot, :count] = [column.read for column in found]
            coefficient[slot, :count] = [column.coefficient for column in found]
            scalars[slot, :count] = [column.scalars for column in found]
            gate[slot, :count] = [column.gate for column in found]
        if keep_norm:
            scalars[..., KIND] += KEEP_NORM
        self._indices.put(entry, torch.from_numpy(index))
        self._coefficients.put(entry, torch.from_numpy(coefficient))
        self._reads.put(entry, torch.from_numpy(reads))
        self._scalars.put(entry, torch.from_numpy(scalars))
        if has_gates:
            self._gate.put(entry, torch.from_numpy(gate))

    def begin_step(self) -> None:
        """Mark every token as not steered, on the host."""
        self._staged.begin()
        self._staged_gains.begin()
        self._marks.clear()
        self._gains.clear()
        self.gates.begin_step()
        self.guessed.clear()

    def mark(
        self,
        start: int,
        stop: int,
        entry: int,
        gains: NDArray[np.float32] | Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Mark tokens [start, stop) of this step's batch as steered by table entry `entry`. `gains`
        [stop - start, <= K]: for each token, what the coefficient of each term is multiplied by;
        None for 1."""
        self._staged.mark(start, stop, self._in_tokens(entry))
        self._marks.append((start, stop, entry))
        if gains is not None:
            values = np.ones((stop - start, self.sizes.terms), dtype=np.float32)
            values[:, : len(gains[0])] = gains
            self._staged_gains.mark(start, stop, values)
            self._gains[start] = values

    def mark_by_position(
        self, start: int, stop: int, indices: range, marks: Sequence[Mark]
    ) -> None:
        """Mark tokens [start, stop) of this step's batch, which are a part of the token `indices`
        of one request, and the device alone knows which. `marks`: what is added at any of these,
        one mark at least. At an index that is not among them a token gets NaN, which ends its
        request: it is never steered as another."""
        earliest = indices.start - 1
        entries = np.full(len(indices) + 2, -1, dtype=np.int32)
        gains = np.ones((len(indices) + 2, self.sizes.terms), dtype=np.float32)
        for mark in marks:
            lo, hi = mark.start - earliest, mark.stop - earliest
            entries[lo:hi] = self._in_tokens(mark.entry)
            if mark.gains is not None:
                gains[lo:hi, : mark.gains.shape[1]] = mark.gains
            self._marks.append((start, start, mark.entry))
        entries[[0, -1]], gains[[0, -1]] = self._in_tokens(marks[0].entry), np.nan
        # As if unmarked, so that the next step finds them so.
        self._staged.mark(start, stop, -1)
        self._staged_gains.mark(start, stop, 1)
        self.guessed.put(start, stop, earliest, (entries, gains))

    def _in_tokens(self, entry: int) -> int:
        """A table entry as `token_entry` has it."""
        return entry + READS if entry in self._reading else entry

    def commit(self, tokens: int) -> None:
        """Send the device what was written since the last commit, and the marks of a step with
        `tokens` tokens: a copy for each table at most, and none of the tables where no request
        came."""
        for rows in (
            *(self._bank_rows, self._indices, self._coefficients),
            *(self._reads, self._scalars, self._gate),
        ):
            rows.send()
        self._staged.commit(tokens)
        self._staged_gains.commit(0)
        self.guessed.send((self.token_entry, self.token_gain))
        mark = self.token_entry.data_ptr()
        (IDLE.discard if self._marks else IDLE.add)(mark)
        entries = {entry for _, _, entry in self._marks}
        reading = entries & self._reading.keys()
        self.adding_slots = self._slots_at(entries - reading)
        self.reading_slots = self._slots_at(reading)
        self.gates.commit()
        self.is_gated = not reading.isdisjoint(self._gated)
        self.active_slots = self.adding_slots | self.reading_slots | self.gates.slots
        if self.token_entry.device.type == "cpu":
            known = not self.guessed
            self.marked = self._as_indices(entries - reading) if known else None
            self.marked_reading = self._as_indices(reading) if known else None
            self.reading_kinds = frozenset().union(*(self._reading[entry] for entry in reading))
            self._ahead = set(self.adding_slots)
            self._added.clear()

    def _slots_at(self, entries: Collection[int]) -> frozenset[int]:
        return frozenset().union(*(self._slots_of.get(entry, ()) for entry in entries))

    def added(self, slot: int) -> Tensor:
        """What each of `marked.entries` adds at `slot`: float32 [u, hidden]. On the CPU only.

        Computed for many slots at once: for a few tokens, thirty operations cost thirty times as
        much as one.
        """
        if slot not in self._added:
            assert self.marked is not None
            entries, gains = self.marked.entries, self.marked.gains
            most = max(1, _AT_ONCE // (len(entries) * self.sizes.hidden))
            others = (one for one in self._ahead if one != slot and one not in self._added)
            slots = [slot, *islice(others, most - 1)]
            chosen = torch.tensor(slots).unsqueeze(1), entries.unsqueeze(0)
            index, coefficient = (
                table[chosen][..., : self.width] for table in (self.index, self.coefficient)
            )
            if gains is not None:
                coefficient = coefficient * gains[:, : self.width]
            sums_of_slots = sums(self.bank, index, coefficient)
            self._added.update(zip(slots, sums_of_slots, strict=True))
        self._ahead.discard(slot)
        return self._added.pop(slot)

    def terms(self, slot: int) -> tuple[Tensor, Terms]:
        """The tokens of `marked_reading` [n] int64, and the terms of each at `slot`; in a step with
        gates, those alone that one of them passes or that have a term without. On the CPU only."""
        assert self.marked_reading is not None
        tokens, entries, spread, gains = self.marked_reading
        tables = (self.index, self.reads, self.coefficient, self.scalars)
        index, reads, coefficient, scalars = (
            table[slot, entries, : self.width] for table in tables
        )
        if gains is not None:
            coefficient = coefficient * gains[:, : self.width]
        terms = Terms(index, reads, coefficient, scalars)
        if spread is not None:
            terms = Terms(*(part[spread] for part in terms))
        if not self.is_gated:
            return tokens, terms
        columns = self.gate[slot, entries, : self.width]
        return gated(
            tokens, terms, columns if spread is None else columns[spread], self.gates.register
        )

    def _as_indices(self, wanted: Collection[int]) -> Marked | None:
        """The tokens of the step that are marked with these table entries; None if there are
        none."""
        marks = sorted(mark for mark in self._marks if mark[2] in wanted)
        if not marks:
            return None
        tokens: list[int] = []
        entries: list[int] = []
        spread: list[int] = []
        gains = []
        for start, stop, entry in marks:
            # With gains, tokens of one table entry differ, so each has an entry of its own here.
            # Without gains, one entry serves all tokens of a mark.
            own = self._gains.get(start)
            first, count = len(entries), stop - start
            tokens += range(start, stop)
            entries += [entry] * (1 if own is None else count)
            spread += [first] * count if own is None else range(first, first + count)
            gains.append(np.ones((1, self.sizes.terms), np.float32) if own is None else own)
        return Marked(
            torch.tensor(tokens),
            torch.tensor(entries),
            torch.tensor(spread) if len(entries) < len(tokens) else None,
            torch.from_numpy(np.vstack(gains)) if any(m[0] in self._gains for m in marks) else None,
        )
