"""Instrumentation and the start-up self-check, on a tiny model with the real operation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import steersman.steering.ops.addition  # noqa: F401  (importing it registers torch.ops.steersman.add)
from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.hooks import ActiveSlots, instrument, site_slots
from steersman.steering.worker.selfcheck import self_check
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.tensors import HookPoint
from tests.support.steering.tiny import HIDDEN, Decoder, blocks_of, decoder

LAYERS = 4


class Engine:
    """A tiny instrumented model and its tables."""

    def __init__(self, *, table_entries: int = 20, always: bool = False) -> None:
        self.model: Decoder = decoder(LAYERS)
        blocks = blocks_of(self.model, LAYERS)
        self.slots = site_slots(blocks)
        self.tables = Tables(
            TableSizes(
                slots=3 * LAYERS, table_entries=table_entries, terms=2, bank_rows=3, hidden=HIDDEN,
                tokens=32,
            ),
            torch.device("cpu"),
        )  # fmt: skip
        self.active = ActiveSlots(3 * LAYERS, always=always)
        instrument(blocks, self.slots, self.tables, self.active)
        self.passes = 0

    def forward(self, tokens: int) -> Tensor:
        self.passes += 1
        hidden: Tensor = self.model(torch.ones(tokens, HIDDEN))
        return hidden

    def check(self, forward: Callable[[int], Tensor] | None = None) -> bool:
        return self_check(
            self.tables, self.slots, self.active, forward or self.forward, self.tables.sizes.tokens
        )


@pytest.mark.parametrize("always", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("table_entries", "passes"), [(20, 3), (5, 9)])
def test_a_sound_engine_passes_and_is_left_as_it_was(
    table_entries: int, passes: int, always: bool
) -> None:
    engine = Engine(table_entries=table_entries, always=always)
    before = engine.forward(3)
    engine.passes = 0
    assert engine.check()
    assert engine.passes == passes
    assert torch.equal(engine.forward(3), before)
    assert not engine.tables.bank.any()
    assert not engine.tables.index.any()
    assert not engine.tables.coefficient.any()
    assert bool((engine.tables.token_entry == -1).all())
    assert not any(engine.active.flags)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("layers.2", "resid_post.2"),
        ("layers.0.self_attn", "attn_out.0"),
        ("layers.3.mlp", "mlp_out.3"),
    ],
)  # fmt: skip
def test_a_site_that_lost_its_addition_is_named_alone(path: str, name: str) -> None:
    engine = Engine()
    module = engine.model.get_submodule(path)
    module.forward = type(module).forward.__get__(module)
    with pytest.raises(NotInstrumentable) as caught:
        engine.check()
    assert str(caught.value).endswith("at " + name)
    assert not engine.tables.bank.any()


def test_all_lost_sites_are_named_over_all_passes() -> None:
    engine = Engine(table_entries=3)
    found: tuple[Any, ...] = (engine.model.layers[1], engine.model.layers[3].mlp)
    for module in found:
        module.forward = type(module).forward.__get__(module)
    with pytest.raises(NotInstrumentable, match=r"at mlp_out\.3, resid_post\.1$"):
        engine.check()


def test_a_neighbour_that_changes_is_refused() -> None:
    engine = Engine()

    def leaking(tokens: int) -> Tensor:
        hidden = engine.forward(tokens)
        return hidden + 1e-6 * hidden.sum(0, keepdim=True)

    with pytest.raises(NotInstrumentable, match="a token that is not steered"):
        engine.check(leaking)
    assert not any(engine.active.flags)


def unsteady(engine: Engine) -> Callable[[int], Tensor]:
    """Kernels that add up in any order: some last bits differ each time."""
    generator = torch.Generator().manual_seed(0)

    def forward(tokens: int) -> Tensor:
        hidden = engine.forward(tokens)
        noise = 1e-6 * torch.randn(hidden.shape, generator=generator)
        return hidden + noise * (torch.rand(hidden.shape, generator=generator) < 0.5)

    return forward


def test_an_engine_that_differs_from_itself_passes_and_is_reported() -> None:
    engine = Engine()
    assert not engine.check(unsteady(engine))


def test_noise_is_not_an_addition() -> None:
    engine = Engine()
    module = engine.model.layers[2]
    module.forward = type(module).forward.__get__(module)
    with pytest.raises(NotInstrumentable, match=r"at resid_post\.2$"):
        engine.check(unsteady(engine))


def test_an_answer_that_is_no_number_is_no_proof() -> None:
    engine = Engine()

    def poisoned(tokens: int) -> Tensor:
        hidden = engine.forward(tokens).clone()
        hidden[2] = float("nan")
        return hidden

    with pytest.raises(NotInstrumentable, match=r"at attn_out\.1$"):
        engine.check(poisoned)


def test_the_tables_are_cleared_when_the_forward_pass_fails() -> None:
    engine = Engine()

    def failing(tokens: int) -> Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        engine.check(failing)
    assert not engine.tables.bank.any()
    assert bool((engine.tables.token_entry == -1).all())


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "mlp_out"])
def test_the_addition_is_the_one_asked_for(site: str) -> None:
    """Output == original + change at the site, for the steered token; nothing beside it."""
    engine = Engine()
    path = {"resid_post": "layers.1", "attn_out": "layers.1.self_attn", "mlp_out": "layers.1.mlp"}
    module = engine.model.get_submodule(path[site])
    seen: list[Tensor] = []

    def watch(_module: object, _inputs: object, output: Tensor | tuple[Tensor, Tensor]) -> None:
        seen.append((output[0] + output[1] if isinstance(output, tuple) else output).clone())

    module.register_forward_hook(watch)
    engine.forward(3)
    vector = torch.randn(HIDDEN)
    engine.tables.fill_bank(2, vector)
    engine.tables.write_entry(0, {engine.slots[HookPoint(site, 1)]: [(2, 0.5)]})
    engine.tables.begin_step()
    engine.tables.mark(1, 2, 0)
    engine.tables.commit(3)
    engine.active.set({engine.slots[HookPoint(site, 1)]})
    engine.forward(3)
    plain, steered = seen
    assert torch.equal(steered[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(steered[1], plain[1] + 0.5 * vector)


def test_a_closed_gate_runs_no_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    ran = []
    monkeypatch.setattr("steersman.steering.worker.hooks.add_marked", lambda *_: ran.append(1))
    engine.tables.begin_step()
    engine.tables.mark(0, 1, 0)
    engine.tables.commit(3)
    engine.forward(3)
    assert not ran
    engine.active.set({engine.slots[HookPoint("attn_out", 2)]})
    engine.forward(3)
    assert len(ran) == 1


def test_an_output_of_another_shape_is_refused() -> None:
    engine = Engine(always=True)
    engine.model.get_submodule("layers.0.mlp.up").forward = lambda x: torch.stack([x, x])
    with pytest.raises(TypeError, match="not \\[tokens, hidden\\]"):
        engine.forward(3)
