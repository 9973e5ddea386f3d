"""The start-up self-check: a probe through every layer, before any request is served."""

from collections.abc import Callable

import torch
from torch import Tensor

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.tables import Tables
from steersman.vectors.tensors import HookPoint

PROBE_ROW = 1
_ABOVE_NOISE = 4.0
"""What a probe moves is this many times what two runs without it differ by, which is 0 mostly."""


def self_check(
    tables: Tables,
    slots: dict[HookPoint, int],
    active: ActiveSlots,
    forward: Callable[[int], Tensor | None],
    most_tokens: int,
) -> bool:
    """Steer one token at each site and layer, and check that this token and no other changed.
    Returns whether this engine computes the same bits twice.

    `forward(n)` runs n identical tokens, which do not see each other if n <= `most_tokens`, and
    returns the final hidden states [>= n, hidden]. Raises `NotInstrumentable` with each (site,
    layer) where the addition did not arrive, or if an unsteered token changed in an element on
    which two runs without steering agree. (They do not agree on all if kernels add in any order, or
    scale by the largest number of a batch.) Leaves the tables all zeros.
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
            missed += [
                f"{site}.{layer}"
                for (site, layer), there in zip(part, arrived[1:].tolist(), strict=True)
                if not there
            ]
    finally:
        _clear(tables, active)
    if missed:
        raise NotInstrumentable(
            "self-check: an addition did not reach the residual stream at " + ", ".join(missed)
        )
    return repeats


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
    active.set(set())
