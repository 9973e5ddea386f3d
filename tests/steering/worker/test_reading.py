"""Terms that read the stream, in the layers of a tiny model: what they read, where, beside whom."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steersman.steering.ops.terms import Column, Direction, columns
from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.blocks import Block as Found
from steersman.steering.worker.hooks import ActiveSlots, instrument, own_slots, site_slots
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.steering.worker.selfcheck import self_check
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint
from tests.steering.worker.test_one_operation import Counting, graphs_of, parallel_decoder
from tests.support.steering.tiny import HIDDEN, Block, Decoder, blocks_of

LAYERS = 3
STEER = torch.ops.steersman.steer.default
TOKENS = 8
PATHS = {
    "resid_post": "layers.1",
    "mlp_out": "layers.1.mlp",
    "attn_out": "layers.1.self_attn",
    "resid_mid": "layers.1.post_attention_layernorm",
}


def _stream(tokens: int) -> Tensor:
    return torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(0))


def decoder() -> Decoder:
    return Decoder([Block(n) for n in range(LAYERS)])


class Reading:
    """A tiny model with everything in place for terms that read the stream."""

    def __init__(self, model: Decoder, *, always: bool, entries: int = 8) -> None:
        self.model = model
        self.blocks: list[Found] = probe_blocks(
            blocks_of(model, LAYERS), lambda n: model(_stream(n)), HIDDEN, 16
        )
        self.slots = site_slots(self.blocks)
        self.own = own_slots(self.slots, ("mlp_out",), ("mlp_out",))
        count = len({*self.slots.values(), *self.own.values()})
        sizes = TableSizes(count, entries, 4, 6, HIDDEN, 16, reading=True)
        self.tables = Tables(sizes, torch.device("cpu"))
        self.active = ActiveSlots(count, always=always)
        instrument(self.blocks, self.slots, self.tables, self.active, self.own)
        self.rows = torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(3))
        for n, row in enumerate(self.rows):
            self.tables.fill_bank(n + 1, row)

    def directions(self, *rows: int) -> list[Direction]:
        return [Direction(n, float(self.rows[n - 1].double().norm())) for n in rows]

    def mark(self, *marks: tuple[int, dict[HookPoint, list[Column]]], **options: Any) -> None:
        """Each with a table entry of its own."""
        self.tables.begin_step()
        for entry, (token, found) in enumerate(marks):
            at_slots = {self.own[point]: own for point, own in found.items()}
            self.tables.write_reading_entry(entry, at_slots, **options)
            self.tables.mark(token, token + 1, entry)
        self.tables.commit(TOKENS)
        self.active.set(self.tables.active_slots)

    def check(self) -> bool:
        return self_check(
            self.tables, self.slots, self.active, lambda n: self.model(_stream(1).repeat(n, 1)),
            16, self.own,
        )  # fmt: skip


modes = pytest.mark.parametrize("always", [True, False], ids=["graphs", "python"])


def hooked(site: str, change: Callable[[Tensor], Any]) -> Any:
    """What the model gives if token 5's value at the site of layer 1 changes so."""
    plain = decoder()

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, tuple):
            output[1][5] += change(output[0][5] + output[1][5])
        else:
            output[5] += change(output[5])

    def before(_: nn.Module, inputs: Any) -> None:
        inputs[1][5] += change(inputs[0][5] + inputs[1][5])

    module = plain.get_submodule(PATHS[site])
    if site == "resid_mid":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(hook)
    return plain(_stream(TOKENS))


@modes
@pytest.mark.parametrize("site", list(PATHS))
def test_what_is_read_is_what_is_at_the_site(site: str, always: bool) -> None:
    """Behind a block both parts of the stream; else the output of the branch alone, also where
    additions are made behind the block."""
    engine = Reading(decoder(), always=always)
    u = engine.rows[0] / engine.rows[0].norm()
    found = columns(Operation("project"), engine.directions(1), 0.75)
    engine.mark((5, {HookPoint(site, 1): found}))
    wanted = hooked(site, lambda h: -0.75 * (h @ u) * u)
    torch.testing.assert_close(engine.model(_stream(TOKENS)), wanted, atol=1e-5, rtol=1e-5)


@modes
def test_all_terms_of_a_hook_point_read_the_same(always: bool) -> None:
    """Two that would undo each other one after the other, an addition, and the norm that stays."""
    engine = Reading(decoder(), always=always)
    u = engine.rows[0] / engine.rows[0].norm()
    found = [
        *columns(Operation("project"), engine.directions(1), 1.0),
        *columns(Operation("project"), engine.directions(1), 1.0),
        *columns(Operation(), engine.directions(2), 0.5),
    ]
    engine.mark((5, {HookPoint("resid_post", 1): found}), keep_norm=True)

    def change(h: Tensor) -> Any:
        after = h - 2 * (h @ u) * u + 0.5 * engine.rows[1]
        return after * (h.norm() / after.norm()) - h

    wanted = hooked("resid_post", change)
    torch.testing.assert_close(engine.model(_stream(TOKENS)), wanted, atol=1e-5, rtol=1e-5)


@modes
def test_an_entry_that_only_adds_has_the_same_bits_beside_one_that_reads(always: bool) -> None:
    engine = Reading(decoder(), always=always)
    add = {engine.own[HookPoint("resid_post", 1)]: [(2, 0.5)]}

    def run(beside: bool) -> Tensor:
        engine.tables.begin_step()
        engine.tables.write_entry(0, add)
        engine.tables.mark(2, 4, 0)
        if beside:
            found = columns(Operation("replace"), engine.directions(1), 1.0)
            at = {engine.own[HookPoint("resid_post", n)]: found for n in (0, 1)}
            engine.tables.write_reading_entry(1, at)
            engine.tables.mark(5, 6, 1)
        engine.tables.commit(TOKENS)
        engine.active.set(engine.tables.active_slots)
        found_: Tensor = engine.model(_stream(TOKENS))
        return found_

    alone, beside = run(False), run(True)
    others = [n for n in range(TOKENS) if n != 5]
    assert torch.equal(beside[others], alone[others])
    assert not torch.equal(beside[5], alone[5])


def test_an_entry_that_was_of_a_reader_adds_when_it_is_written_anew() -> None:
    engine = Reading(decoder(), always=True)
    point = HookPoint("resid_post", 1)
    engine.mark((5, {point: columns(Operation("replace"), engine.directions(1), 1.0)}))
    engine.tables.begin_step()
    engine.tables.write_entry(0, {engine.own[point]: [(2, 0.5)]})
    engine.tables.mark(5, 6, 0)
    engine.tables.commit(TOKENS)
    wanted = hooked("resid_post", lambda _: 0.5 * engine.rows[1])
    torch.testing.assert_close(engine.model(_stream(TOKENS)), wanted, atol=1e-5, rtol=1e-5)


def test_operations_a_layer() -> None:
    """One for each slot, as with additions; an alias has its own."""
    engine = Reading(decoder(), always=True)
    with Counting() as count:
        engine.model(_stream(TOKENS))
    assert count.seen[STEER] == 4 * LAYERS
    (graph,) = graphs_of(engine.model)
    assert sum(n.target in (STEER, STEER.overloadpacket) for n in graph.nodes) == 4 * LAYERS


def test_between_an_all_reduce_and_its_norm_stands_the_operation() -> None:
    """Which is why it is left out there unless an operator asks for it."""
    engine = Reading(parallel_decoder(), always=True)
    (graph,) = graphs_of(engine.model)
    reduce = torch.ops.steersman_tests.all_reduce
    reduces = [n for n in graph.nodes if n.target in (reduce, reduce.default)]
    assert any(len(node.users) > 1 for node in reduces)


@modes
@pytest.mark.parametrize("entries", [1, 2, 8])
def test_a_sound_engine_passes_its_check(always: bool, entries: int) -> None:
    engine = Reading(decoder(), always=always, entries=entries)
    assert engine.check()
    assert not engine.tables.reads.any()
    assert not engine.tables.scalars.any()
    assert not engine.active.flags.count(True)


def test_an_engine_that_reads_half_of_the_stream_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steersman.steering.worker.hooks.Parts.other", lambda _: None)
    engine = Reading(decoder(), always=True)
    with pytest.raises(NotInstrumentable, match="did not read all of it"):
        engine.check()


def test_a_hook_point_that_lost_its_readers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Reading(decoder(), always=False)
    lost = HookPoint("mlp_out", 2)
    write = engine.tables.write_reading_entry

    def losing(entry: int, found: dict[int, list[Column]], **options: Any) -> None:
        kept = {slot: one for slot, one in found.items() if slot != engine.own[lost]}
        write(entry, kept, **options)

    monkeypatch.setattr(engine.tables, "write_reading_entry", losing)
    with pytest.raises(NotInstrumentable, match=r"at mlp_out\.2$"):
        engine.check()
