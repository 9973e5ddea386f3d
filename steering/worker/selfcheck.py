"""The start-up self-check: a probe through every layer, before any request is served."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from steersman.steering.ops.terms import REPLACE, Column, Scalars
from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.tables import Tables
from steersman.vectors.tensors import HookPoint, tensor_name

PROBE_ROW = 1
PUT_ROW = 2
_READS_PROBE = Scalars(alpha=1.0)
"""Adds as a term that only adds does, and reads the stream beside."""
_LOST = 0.5
"""What is put in the stream's place takes away what an earlier layer added: more than this share of
it."""
_ABOVE_NOISE = 4.0
"""What a probe moves is this many times what two runs without it differ by, which is 0 mostly."""


def self_check(
    tables: Tables,
    slots: dict[HookPoint, int],
    active: ActiveSlots,
    forward: Callable[[int], Tensor | None],
    most_tokens: int,
    own: dict[HookPoint, int] | None = None,
) -> bool:
    """Steer one token at each site and layer, and check that this token and no other changed.
    Returns whether this engine computes the same bits twice.

    `forward(n)` runs n identical tokens, which do not see each other if n <= `most_tokens`, and
    returns the final hidden states [>= n, hidden]. Raises `NotInstrumentable` with each (site,
    layer) where the addition did not arrive, or if an unsteered token changed in an element on
    which two runs without steering agree. (They do not agree on all if kernels add in any order, or
    scale by the largest number of a batch.) Leaves the tables all zeros. `own`: the slots of terms
    that read the stream, None where none does; then these are checked, too: that a change by such a
    term arrives, and that what it reads is the whole stream.
    """
    repeats = True
    # One of those that share a slot.
    names = sorted({slot: name for name, slot in reversed(slots.items())}.values())
    # With room for one token only, the probe sees the one before it, which is not steered.
    width = max(1, min(tables.sizes.table_entries, tables.sizes.tokens - 1, most_tokens - 1))
    probe = torch.randn(tables.sizes.hidden, generator=torch.Generator().manual_seed(0))
    missed: list[str] = []
    try:
        tables.fill_bank(PROBE_ROW, probe)
        for start in range(0, len(names), width):
            part = names[start : start + width]
            before = _run(tables, active, forward, part, slots, steered=False)
            again = _run(tables, active, forward, part, slots, steered=False)
            after = _run(tables, active, forward, part, slots, steered=True)
            repeats = repeats and torch.equal(before, again)
            if bool(((before[0] == again[0]) & (before[0] != after[0])).any()):
                raise NotInstrumentable("self-check: steering changed a token that is not steered")
            noise, moved = ((x - before).float().norm(dim=-1) for x in (again, after))
            arrived = after.isfinite().all(-1) & (moved > _ABOVE_NOISE * noise)
            missed += _without(part, arrived[1:])
        if own is not None and not missed:
            check = _ReadingCheck(tables, own, active, forward, width)
            missed += check.not_arrived()
            check.check_whole_stream_is_read()
    finally:
        _clear(tables, active)
    if missed:
        raise NotInstrumentable(
            "self-check: an addition did not reach the residual stream at " + ", ".join(missed)
        )
    return repeats


def _without(points: list[HookPoint], there: Tensor) -> list[str]:
    """Names of those of `points` that are not `there`, bool [points]."""
    found = zip(points, there.tolist(), strict=True)
    return [tensor_name(point) for point, arrived in found if not arrived]


class _ReadingCheck:
    """The check of terms that read the stream. Assumption: the tables hold the probe."""

    def __init__(
        self,
        tables: Tables,
        own: dict[HookPoint, int],
        active: ActiveSlots,
        forward: Callable[[int], Tensor | None],
        width: int,
    ) -> None:
        self.tables, self.own, self.active, self.forward = tables, own, active, forward
        self.width = width
        """Most tokens that are steered at once."""
        put = torch.randn(tables.sizes.hidden, generator=torch.Generator().manual_seed(1))
        self.put_row = min(PUT_ROW, tables.sizes.bank_rows)
        tables.fill_bank(self.put_row, put)

    def not_arrived(self) -> list[str]:
        """Names of the hook points where a change by a term that reads did not arrive."""
        column = Column(PROBE_ROW, 1.0, PROBE_ROW, _READS_PROBE)
        names = sorted(self.own)
        missed = []
        for start in range(0, len(names), self.width):
            part = names[start : start + self.width]
            plain = self._run([{} for _ in part])
            after = self._run([{self.own[point]: [column]} for point in part])
            moved = (after - plain).float().norm(dim=-1)
            missed += _without(part, after.isfinite().all(-1) & (moved > 0))
        return missed

    def check_whole_stream_is_read(self) -> None:
        """Put the same in the place of the stream behind a block at two tokens, of which one has a
        probe from the block before. Behind it they are alike, if it was the whole stream that was
        read. Raises `NotInstrumentable`."""
        add, put = Column(PROBE_ROW, 1.0), Column(self.put_row, 1.0, scalars=Scalars(kind=REPLACE))
        slots = [self.own[point] for point in sorted(self.own) if point.site == "resid_post"]
        pairs = list(pairwise(slots))
        for start in range(0, len(pairs), self.width):
            part = pairs[start : start + self.width]
            each: list[list[dict[int, list[Column]]]] = [
                [{before: [add], slot: [put]} for before, slot in part],
                [{slot: [put]} for _, slot in part],
                [{before: [add]} for before, _ in part],
                [{} for _ in part],
            ]
            with_probe, without, added, plain = (self._run(entries).float() for entries in each)
            left = (with_probe - without).norm(dim=-1)
            if not bool((left <= _LOST * (added - plain).norm(dim=-1)).all()):
                raise NotInstrumentable(
                    "self-check: an operation that reads the residual stream did not read all of it"
                )

    def _run(self, entries: list[dict[int, list[Column]]]) -> Tensor:
        """Final hidden states [entries, hidden] of a token for each of `entries`; {}: not
        steered."""
        self.tables.begin_step()
        for n, columns in enumerate(entries):
            if columns:
                self.tables.write_reading_entry(n, columns)
                self.tables.mark(n + 1, n + 2, n)
        self.tables.commit(len(entries) + 1)
        self.active.set({slot for columns in entries for slot in columns})
        hidden = self.forward(len(entries) + 1)
        if hidden is None or len(hidden) <= len(entries):
            raise NotInstrumentable("self-check: the probe's forward pass returned nothing")
        return hidden[1 : len(entries) + 1].clone()


def _run(
    tables: Tables,
    active: ActiveSlots,
    forward: Callable[[int], Tensor | None],
    part: list[HookPoint],
    slots: dict[HookPoint, int],
    *,
    steered: bool,
) -> Tensor:
    tables.begin_step()
    for n, name in enumerate(part):
        tables.write_entry(n, {slots[name]: [(PROBE_ROW, 1.0)]})
        if steered:
            tables.mark(n + 1, n + 2, n)
    tables.commit(len(part) + 1)
    active.set({slots[name] for name in part} if steered else set())
    hidden = forward(len(part) + 1)
    if hidden is None or len(hidden) <= len(part):
        raise NotInstrumentable("self-check: the probe's forward pass returned no hidden states")
    return hidden[: len(part) + 1].clone()


def _clear(tables: Tables, active: ActiveSlots) -> None:
    tables.begin_step()
    tables.commit(0)
    tables.bank.zero_()
    tables.index.zero_()
    tables.coefficient.zero_()
    tables.reads.zero_()
    tables.scalars.zero_()
    active.set(set())
