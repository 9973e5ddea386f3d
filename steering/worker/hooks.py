"""The way through a layer: the change of a site's output, after the site's module has run."""

from collections.abc import Callable, Collection, Set
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from steersman.steering.ops.addition import add_marked
from steersman.steering.ops.operations import steer_tokens
from steersman.steering.plan.limits import STEERABLE_SITES
from steersman.steering.worker.blocks import Block
from steersman.steering.worker.tables import Tables
from steersman.vectors.tensors import HookPoint

Forward = Callable[..., Any]
Listener = Callable[[str, int, tuple[Tensor, ...]], None]
"""Called with (site, layer, one or two tensors [tokens, hidden] whose sum is the value there)."""


class ActiveSlots:
    """The slots that a step steers, and the listeners at the sites. Only eager mode reads them.

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
        """At `OUTPUT_SITES`."""
        self.readers: list[Listener] = []
        """At all sites."""

    def set(self, slots: Set[int]) -> None:
        """Make exactly `slots` active."""
        for slot in self._active - slots:
            self.flags[slot] = False
        for slot in slots - self._active:
            self.flags[slot] = True
        self._active = slots


OUTPUT_SITES: Final = STEERABLE_SITES[:3]
"""Sites that are the output of a module; `resid_mid` is the input of one."""


def modules_of(block: Block) -> dict[str, nn.Module | None]:
    """For each site, the module whose output is at that site; None if the block has no such
    module."""
    return dict(zip(OUTPUT_SITES, (block.module, block.attn, block.mlp), strict=True))


def all_sites(blocks: list[Block]) -> tuple[str, ...]:
    """The sites that every block has, in table order."""
    found = tuple(
        site
        for site in OUTPUT_SITES
        if all(modules_of(block)[site] is not None for block in blocks)
    )
    return (*found, "resid_mid") if all(block.mid is not None for block in blocks) else found


def alias_sites(blocks: list[Block]) -> tuple[str, ...]:
    """The sites at which, in every block, an addition equals one at `resid_post`."""
    return tuple(
        site for site in all_sites(blocks) if all(site in block.aliases for block in blocks)
    )


def own_slots(
    slots: dict[HookPoint, int], aliases: Collection[str], on: Collection[str]
) -> dict[HookPoint, int]:
    """Table slot of each hook point where terms may read the stream: there, each alias that is `on`
    has a slot of its own, after those of `slots`."""
    found = {point: slot for point, slot in slots.items() if point.site not in aliases}
    for point in slots:
        if point.site in aliases and point.site in on:
            found[point] = len(found)
    return found


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
    blocks: list[Block],
    slots: dict[HookPoint, int],
    tables: Tables,
    active: ActiveSlots,
    own: dict[HookPoint, int] | None = None,
) -> None:
    """Wrap the forward of every site's module. Call once, before vLLM profiles or compiles. `own`:
    see `own_slots`; None where terms only add."""
    sites, aliases = all_sites(blocks), alias_sites(blocks)
    if own is None:
        own = {point: slot for point, slot in slots.items() if point.site not in aliases}
    for block in blocks:
        for site, module in modules_of(block).items():
            slot = own.get(HookPoint(site, block.layer))
            if module is not None and site in sites:
                module.forward = _steered(module.forward, site, block, slot, tables, active)
        slot = own.get(HookPoint("resid_mid", block.layer))
        if block.mid is not None and slot is not None:
            block.mid.forward = _steered_input(block.mid.forward, block.layer, slot, tables, active)


def _steered_input(
    forward: Forward, layer: int, slot: int, tables: Tables, active: ActiveSlots
) -> Forward:
    """A wrapper of `forward` that changes what the module gets, the stream, as the tables have it
    at `slot`, and then calls the readers."""
    steer = _addition(slot, tables, active, input_parts)

    def steered(*args: Any, **kwargs: Any) -> Any:
        steer(args)
        if not torch.compiler.is_compiling():
            for read in active.readers:
                target, other = (parts := input_parts(args)).target(), parts.other()
                read("resid_mid", layer, (target,) if other is None else (target, other))
        return forward(*args, **kwargs)

    return steered


def _steered(
    forward: Forward, site: str, block: Block, slot: int | None, tables: Tables, active: ActiveSlots
) -> Forward:
    """A wrapper of `forward` that adds what the tables have at `slot`, and then calls the
    listeners. If `slot` is None it only calls the listeners."""
    parts = residual_parts if site == "resid_post" and block.split else output_parts
    add = None if slot is None else _addition(slot, tables, active, parts)

    def steered(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if add is not None:
            add(output)
        if not torch.compiler.is_compiling():
            for listen in chain(active.listeners, active.readers):
                listen(site, block.layer, value_parts(output, site, block))
        return output

    return steered


def _addition(
    slot: int, tables: Tables, active: ActiveSlots, parts: Callable[[Any], "Parts"]
) -> Callable[[Any], None]:
    """A function that changes `parts` of what it is given, in place, as the tables have it at
    `slot`."""
    is_active = active.flags
    bank, index, coefficient = tables.bank, tables.index[slot], tables.coefficient[slot]
    marks = tables.token_entry, tables.token_gain

    def added(value: Any) -> None:
        torch.ops.steersman.add(parts(value).target(), bank, index, coefficient, *marks)

    in_graph = _reading(slot, tables, parts) if tables.sizes.reading else added

    def on_device(value: Any) -> None:
        if is_active[slot]:
            in_graph(value)

    def on_host(value: Any) -> None:
        if is_active[slot]:
            found = parts(value)
            stream, adding, reading = found.target(), tables.marked, tables.marked_reading
            if adding is None and reading is None:
                in_graph(value)
                return
            if slot in tables.gates.slots:
                tables.gates.measure(slot, stream, found.other())
            if reading is not None and slot in tables.reading_slots:
                tokens, terms = tables.terms(slot)
                kinds = tables.reading_kinds
                steer_tokens(stream, found.other(), tokens, terms, tables.bank, kinds)
            if adding is not None and (reading is None or slot in tables.adding_slots):
                add_marked(stream, tables.added(slot), adding)

    if active.always:
        return in_graph
    return on_host if tables.bank.device.type == "cpu" else on_device


def _reading(slot: int, tables: Tables, parts: Callable[[Any], "Parts"]) -> Callable[[Any], None]:
    """The same where terms may read the stream."""
    operands = (
        *(tables.bank, tables.index[slot], tables.reads[slot]),
        *(tables.coefficient[slot], tables.scalars[slot]),
        *(tables.token_entry, tables.token_gain),
        *(tables.gate[slot], tables.gates.register),
    )

    def steer(value: Any) -> None:
        found = parts(value)
        torch.ops.steersman.steer(found.target(), found.other(), *operands)

    return steer


class Parts(NamedTuple):
    """The one or two tensors whose sum is the stream at a hook point."""

    changed: Any
    """The one that is changed, in place."""
    rest: Any = None

    def target(self) -> Tensor:
        """The tensor [tokens, hidden] that is changed."""
        return stream_part(self.changed)

    def other(self) -> Tensor | None:
        """The rest of the stream, of the same shape; None if all of it is in `target`."""
        return None if self.rest is None else stream_part(self.rest)


def residual_parts(output: Any) -> Parts:
    """Of a block that returns `(hidden_states, residual)`, whose sum is the stream, as most of
    vLLM's do. The residual is changed: hidden_states comes from an all-reduce and goes to a norm,
    and vLLM runs these two as one kernel if nothing stands between them."""
    return Parts(output[1], output[0])


def output_parts(output: Any) -> Parts:
    """Of a module whose first output is what it adds to the stream, or the stream."""
    return Parts(output)


def input_parts(args: tuple[Any, ...]) -> Parts:
    """Of a module that gets the stream, whole or as `(hidden_states, residual)`."""
    tensors = [one for one in args if isinstance(one, Tensor) and one.dim() > 1]
    return Parts(tensors[1], tensors[0]) if len(tensors) > 1 else Parts(tensors[0])


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
