"""The way through a layer: the addition to a site's output, after the site's module has run."""

from collections.abc import Callable, Collection, Set
from typing import Any

import torch
from torch import Tensor, nn

from steersman.steering.ops.addition import add_marked
from steersman.steering.plan.limits import STEERABLE_SITES
from steersman.steering.worker.blocks import Block
from steersman.steering.worker.tables import Tables
from steersman.vectors.tensors import HookPoint

Forward = Callable[..., Any]
Listener = Callable[[str, int, tuple[Tensor, ...]], None]
"""Called with (site, layer, one or two tensors [tokens, hidden] whose sum is the value there)."""


class ActiveSlots:
    """The slots that a step steers, which eager mode reads, and the listeners at the sites.

    In compiled or captured mode `always` is set: Python does not run in the forward pass there, so
    the operation is part of the graph and decides by its tables alone. A step with listeners must
    run without graphs.
    """

    def __init__(self, slots: int, *, always: bool) -> None:
        self.always = always
        self.flags = [False] * slots
        """For each slot, whether the running step steers it."""
        self._active: Set[int] = frozenset()
        self.listeners: list[Listener] = []

    def set(self, slots: Set[int]) -> None:
        """Make exactly `slots` active."""
        for slot in self._active - slots:
            self.flags[slot] = False
        for slot in slots - self._active:
            self.flags[slot] = True
        self._active = slots


def modules_of(block: Block) -> dict[str, nn.Module | None]:
    """For each site, the module whose output is at that site; None if the block has no such
    module."""
    return dict(zip(STEERABLE_SITES, (block.module, block.attn, block.mlp), strict=True))


def all_sites(blocks: list[Block]) -> tuple[str, ...]:
    """The sites that every block has, in table order."""
    return tuple(
        site
        for site in STEERABLE_SITES
        if all(modules_of(block)[site] is not None for block in blocks)
    )


def alias_sites(blocks: list[Block]) -> tuple[str, ...]:
    """The sites at which, in every block, an addition equals one at `resid_post`."""
    return tuple(
        site for site in all_sites(blocks) if all(site in block.aliases for block in blocks)
    )


def site_slots(
    blocks: list[Block], sites: Collection[str] = STEERABLE_SITES
) -> dict[HookPoint, int]:
    """Table slot of each hook point where additions are on; slots count from 0 without gaps.

    A hook point is on if its site is among `sites` and every block has that site. So the number of
    sites limits the number of slots. `resid_post` is always on, and aliases share its slots.
    """
    slots: dict[HookPoint, int] = {}
    aliases = alias_sites(blocks)
    for site in all_sites(blocks):
        for block in blocks:
            point = HookPoint(site, block.layer)
            if site in aliases:
                slots[point] = slots[HookPoint("resid_post", block.layer)]
            elif site == "resid_post" or site in sites:
                slots[point] = len(set(slots.values()))
    return slots


def instrument(
    blocks: list[Block], slots: dict[HookPoint, int], tables: Tables, active: ActiveSlots
) -> None:
    """Wrap the forward of every site's module. Call once, before vLLM profiles or compiles."""
    sites, aliases = all_sites(blocks), alias_sites(blocks)
    for block in blocks:
        for site, module in modules_of(block).items():
            slot = None if site in aliases else slots.get(HookPoint(site, block.layer))
            if module is not None and site in sites:
                module.forward = _steered(module.forward, site, block, slot, tables, active)


def _steered(
    forward: Forward, site: str, block: Block, slot: int | None, tables: Tables, active: ActiveSlots
) -> Forward:
    """A wrapper of `forward` that adds what the tables have at `slot`, and then calls the
    listeners. If `slot` is None it only calls the listeners."""
    add = None if slot is None else _addition(site, block, slot, tables, active)

    def steered(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if add is not None:
            add(output)
        if not torch.compiler.is_compiling():
            for listen in active.listeners:
                listen(site, block.layer, value_parts(output, site, block))
        return output

    return steered


def _addition(
    site: str, block: Block, slot: int, tables: Tables, active: ActiveSlots
) -> Callable[[Any], None]:
    """A function that adds to a module's output, in place, what the tables have at `slot`."""
    bank, index, coefficient = tables.bank, tables.index[slot], tables.coefficient[slot]
    operands = (bank, index, coefficient, tables.token_entry, tables.token_gain)
    is_active = active.flags
    on_host = bank.device.type == "cpu"
    on_residual = site == "resid_post" and block.split

    def in_graph(output: Any) -> None:
        torch.ops.steersman.add(target(output, on_residual), *operands)

    def eager(output: Any) -> None:
        if is_active[slot]:
            stream, marked = target(output, on_residual), tables.marked
            if on_host and marked is not None:
                add_marked(stream, tables.added(slot), marked)
            else:
                torch.ops.steersman.add(stream, *operands)

    return in_graph if active.always else eager


def target(output: Any, on_residual: bool) -> Tensor:
    """The tensor [tokens, hidden] of a module's output to which the addition is made, in place.

    Most of vLLM's blocks return `(hidden_states, residual)`, whose sum is the stream. The addition
    goes to the residual: hidden_states comes from an all-reduce and goes to a norm, and vLLM runs
    these two as one kernel if nothing stands between them.
    """
    return stream_part(output[1] if on_residual else output)


def stream_part(output: Any) -> Tensor:
    """The first tensor of a module's output, as [tokens, hidden].

    Outputs of vLLM's Transformers backend are [1, tokens, hidden]. Raises TypeError for any other
    shape.
    """
    part = output[0] if isinstance(output, tuple) else output
    if isinstance(part, Tensor) and part.dim() == 3 and part.shape[0] == 1:
        part = part[0]
    if not isinstance(part, Tensor) or part.dim() != 2:
        raise TypeError(f"a steered module returned {type(part).__name__}, not [tokens, hidden]")
    return part


def stream_parts(output: Any) -> tuple[Tensor, ...]:
    """The one or two tensors [tokens, hidden] that a module returned, both of one shape. Raises
    TypeError for any other output."""
    items = [x for x in output if x is not None] if isinstance(output, tuple) else [output]
    parts = tuple(stream_part(item) for item in items)
    if len(parts) not in (1, 2) or parts[0].shape != parts[-1].shape:
        raise TypeError(f"a module returned {len(parts)} tensors that are not a residual stream")
    return parts


def value_parts(output: Any, site: str, block: Block) -> tuple[Tensor, ...]:
    """One or two tensors [tokens, hidden] whose sum is the value at a site. At `resid_post` the
    value is the residual stream behind the block; at other sites it is the branch's output before
    it joins the stream."""
    if site != "resid_post":
        return (stream_part(output),)
    parts = stream_parts(output)
    return parts if block.split else parts[:1]
