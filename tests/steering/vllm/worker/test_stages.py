"""The stages of a pipeline, each with some of the blocks, against one model with all of them. Two
stages in real processes: tests/matrix/test_parallel.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from vllm.model_executor.models.utils import PPMissingLayer
from vllm.sequence import IntermediateTensors

import steersman.steering.ops.addition  # noqa: F401  (importing it registers torch.ops.steersman.add)
from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.vllm.worker import stages
from steersman.steering.vllm.worker.stages import agreed, all_stages, hidden_states
from steersman.steering.worker.blocks import Block as Found
from steersman.steering.worker.hooks import OUTPUT_SITES, ActiveSlots, instrument, site_slots
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.steering.worker.selfcheck import self_check
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.tensors import HookPoint
from tests.support.steering.tiny import HIDDEN, Block, Decoder, blocks_of

LAYERS, CUT, TOKENS = 5, 2, 3


class Stage(Decoder):
    """As vLLM builds a model's stage: placeholders for the blocks of others."""

    def __init__(self, first: int, stop: int) -> None:
        super().__init__(
            [Block(n) if first <= n < stop else PPMissingLayer() for n in range(LAYERS)]
        )
        self.own = range(first, stop)

    @torch.no_grad()
    def forward(self, x: Any) -> Any:
        hidden, residual = x if isinstance(x, tuple) else (x, None)
        for n in self.own:
            hidden, residual = self.layers[n](hidden, residual)
        if self.own.stop < LAYERS:
            return IntermediateTensors({"hidden_states": hidden, "residual": residual})
        return self.norm(hidden, residual)[0]


class Rank:
    """A worker's parts, with one stage of the model or all of it."""

    def __init__(self, first: int, stop: int) -> None:
        self.model = Stage(first, stop)
        self.starts = first == 0
        found = blocks_of(self.model, LAYERS)
        self.here = probe_blocks(found, self.probe, HIDDEN, 64)

    def probe(self, tokens: int) -> Tensor:
        x = torch.randn(2, tokens, HIDDEN, generator=torch.Generator().manual_seed(1))
        found = hidden_states(self.model(x[0] if self.starts else (x[0], x[1].clone())))
        assert found is not None
        return found

    def instrument(self, blocks: list[Found]) -> None:
        self.slots = site_slots(blocks)
        count = len({*self.slots.values()})
        sizes = TableSizes(
            slots=count, table_entries=20, terms=2, bank_rows=3, hidden=HIDDEN, tokens=32
        )
        self.tables = Tables(sizes, torch.device("cpu"))
        self.active = ActiveSlots(count, always=False)
        instrument(blocks, self.slots, self.tables, self.active)

    def steer(self, point: HookPoint) -> None:
        """Add a vector at `point` to the second token."""
        slot = self.slots[point]
        self.tables.begin_step()
        self.tables.fill_bank(1, torch.arange(HIDDEN) / HIDDEN)
        self.tables.write_entry(0, {slot: [(1, 0.5)]})
        self.tables.mark(1, 2, 0)
        self.tables.commit(TOKENS)
        self.active.set({slot})


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> tuple[Rank, Rank, Rank]:
    """One with all blocks, and two stages that have exchanged what they found."""
    whole, first, last = Rank(0, LAYERS), Rank(0, CUT), Rank(CUT, LAYERS)
    sent: list[Any] = []

    def send(here: Any) -> list[Any]:
        sent.append(here)
        return [here]

    monkeypatch.setattr(stages, "_gathered", send)
    for rank in (first, last):
        all_stages(rank.here)
    monkeypatch.setattr(stages, "_gathered", lambda _here: sent)
    for rank in (first, last):
        rank.instrument(all_stages(rank.here))
    whole.instrument(whole.here)
    return whole, first, last


def test_stages_have_the_slots_of_the_whole(ranks: tuple[Rank, Rank, Rank]) -> None:
    whole, first, last = ranks
    assert [[block.layer for block in rank.here] for rank in ranks] == [
        [0, 1, 2, 3, 4], [0, 1], [2, 3, 4]
    ]  # fmt: skip
    assert whole.slots == first.slots == last.slots
    assert {site for site, _ in whole.slots} == {*OUTPUT_SITES, "resid_mid"}


def test_what_is_added_is_that_of_the_whole(ranks: tuple[Rank, Rank, Rank]) -> None:
    whole, first, last = ranks
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2))
    plain = whole.model(x.clone())
    for point in whole.slots:
        for rank in ranks:
            rank.steer(point)
        passed = first.model(x.clone())
        steered = last.model((passed["hidden_states"], passed["residual"]))
        expected = whole.model(x.clone())
        assert torch.equal(steered, expected)
        assert not torch.equal(expected[1], plain[1])
        assert torch.equal(expected[::2], plain[::2])


def test_each_stage_checks_its_own_layers(ranks: tuple[Rank, Rank, Rank]) -> None:
    _, first, last = ranks
    for rank in (first, last):
        own = {b.layer for b in rank.here}
        slots = {point: slot for point, slot in rank.slots.items() if point.layer in own}

        def forward(tokens: int, rank: Rank = rank) -> Tensor | None:
            x = torch.ones(tokens, HIDDEN)
            return hidden_states(rank.model(x if rank.starts else (x, x.clone())))

        assert self_check(rank.tables, slots, rank.active, forward, 32)
        with pytest.raises(NotInstrumentable, match="did not reach"):
            self_check(rank.tables, rank.slots, rank.active, forward, 32)


def test_a_site_that_one_stage_lacks_is_off_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = Rank(0, CUT), Rank(CUT, LAYERS)
    lacking = [*last.here[:-1], replace(last.here[-1], mlp=None, mid=None)]
    monkeypatch.setattr(stages, "_gathered", lambda here: [here, lacking])
    assert {site for site, _ in site_slots(all_stages(first.here))} == {"resid_post", "attn_out"}


def test_an_error_of_one_stage_is_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise NotInstrumentable("mine")

    monkeypatch.setattr(stages, "_gathered", lambda here: [here, None])
    assert agreed(lambda: 5) == 5
    with pytest.raises(NotInstrumentable, match="mine"):
        agreed(fails)
    monkeypatch.setattr(stages, "_gathered", lambda here: [here, "theirs"])
    with pytest.raises(NotInstrumentable, match="theirs"):
        agreed(lambda: 5)


def test_hidden_states_of_a_pass() -> None:
    x = torch.ones(2, HIDDEN)
    assert hidden_states(x) is x
    assert hidden_states((x, [x])) is x
    assert hidden_states(None) is None
    passed = IntermediateTensors({"hidden_states": x, "residual": 2 * x})
    assert torch.equal(hidden_states(passed), 3 * x)  # type: ignore[arg-type]
