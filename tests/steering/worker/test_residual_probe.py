"""What a block returns and which branches join the stream, found by arithmetic."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.blocks import Block as Found
from steersman.steering.worker.hooks import (
    alias_sites,
    all_sites,
    site_slots,
    stream_part,
    stream_parts,
    value_parts,
)
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.vectors.tensors import HookPoint
from tests.support.steering.tiny import HIDDEN, Block, Decoder, blocks_of

LAYERS = 3


class Alone(Block):
    """Returns the stream, and nothing else."""

    def __init__(self, layer: int, *, attn_scale: float = 1.0, mlp_scale: float = 1.0) -> None:
        super().__init__(layer)
        self.attn_scale, self.mlp_scale = attn_scale, mlp_scale

    def forward(self, x: Tensor, residual: Tensor | None) -> Any:
        mid = x + self.attn_scale * self.self_attn(self.input_layernorm(x)[0])
        return self.out(mid, mid + self.mlp_scale * self.mlp(self.post_attention_layernorm(mid)[0]))

    def out(self, mid: Tensor, stream: Tensor) -> Any:
        return stream, None


class Leftover(Alone):
    """Returns the stream, and beside it a tensor that nobody uses."""

    def out(self, mid: Tensor, stream: Tensor) -> Any:
        return stream, mid


class Parallel(Alone):
    def forward(self, x: Tensor, residual: Tensor | None) -> Any:
        normed = self.input_layernorm(x)[0]
        return x + self.self_attn(normed) + self.mlp(normed), None


class PostNorm(Alone):
    def forward(self, x: Tensor, residual: Tensor | None) -> Any:
        mid = x + self.input_layernorm(self.self_attn(x))[0]
        return mid + self.post_attention_layernorm(self.mlp(mid))[0], None


class Batched(Alone):
    """A batch of one in front, as in vLLM's Transformers backend."""

    def forward(self, x: Tensor, residual: Tensor | None) -> Any:
        return super().forward(x.view(1, -1, HIDDEN), None)


class Streams(Alone):
    """Four streams at once (hyper-connections)."""

    def out(self, mid: Tensor, stream: Tensor) -> Any:
        return torch.stack([stream] * 4, 1), None


class Halves(nn.Module):
    """A model that does not take the sum of its blocks' two tensors for the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(Block, range(LAYERS)))

    def forward(self, x: Tensor) -> Tensor:
        residual: Any = None
        for block in self.layers:
            x, residual = block(x, residual)
            x = 3 * x
        tripled: Tensor = x + residual
        return tripled


class Looped(Decoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Flat(Decoder):
    """For blocks that return no second tensor, or one that is not used."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x, None)[0]
        normed: Tensor = self.norm(x.view(-1, HIDDEN))[0]
        return normed


def found(model: nn.Module, max_tokens: int = 64) -> list[Found]:
    def forward(tokens: int) -> Tensor:
        assert tokens <= max_tokens
        generator = torch.Generator().manual_seed(0)
        hidden: Tensor = model(torch.randn(tokens, HIDDEN, generator=generator))
        return hidden

    return probe_blocks(blocks_of(model, LAYERS), forward, HIDDEN, max_tokens)


def sites(blocks: list[Found]) -> set[tuple[bool, bool, bool]]:
    """(split, whether attention joins, whether the MLP does) of all blocks."""
    return {(b.split, b.attn is not None, b.mlp is not None) for b in blocks}


@pytest.mark.parametrize("max_tokens", [64, 3, 2], ids=["together", "each", "each-of-two"])
def test_halves_of_the_stream(max_tokens: int) -> None:
    blocks = found(Decoder([Block(n) for n in range(LAYERS)]), max_tokens)
    assert sites(blocks) == {(True, True, True)}
    assert [block.layer for block in blocks] == list(range(LAYERS))


@pytest.mark.parametrize("kind", [Alone, Leftover, Parallel, Batched])
def test_the_whole_stream(kind: type[Alone]) -> None:
    assert sites(found(Flat([kind(n) for n in range(LAYERS)]))) == {(False, True, True)}


@pytest.mark.parametrize(
    ("kind", "aliases"),
    [
        (Alone, {"mlp_out"}),
        # Its MLP does not see what its attention adds: both are the stream behind the block.
        (Parallel, {"attn_out", "mlp_out"}),
        (PostNorm, set()),
    ],
)
def test_where_an_addition_is_one_behind_the_block(kind: type[Alone], aliases: set[str]) -> None:
    blocks = found(Flat([kind(n) for n in range(LAYERS)]))
    assert {block.aliases for block in blocks} == {frozenset(aliases)}
    assert set(alias_sites(blocks)) == aliases


def test_an_alias_holds_at_all_blocks_or_at_none() -> None:
    blocks = found(Flat([Parallel(0), Alone(1), Parallel(2)]))
    assert alias_sites(blocks) == ("mlp_out",)
    slots = site_slots(blocks)
    assert [slots[HookPoint("mlp_out", n)] for n in range(3)] == [0, 1, 2]
    assert [slots[HookPoint("attn_out", n)] for n in range(3)] == [3, 4, 5]
    assert {site for site, _ in site_slots(blocks, ())} == {"resid_post", "mlp_out"}


def test_branches_behind_norms_are_not_steered() -> None:
    assert sites(found(Flat([PostNorm(n) for n in range(LAYERS)]))) == {(False, False, False)}


@pytest.mark.parametrize("scale", [0.5, 1.03, -1.0, 0.0])
def test_branches_that_the_block_scales_are_not_steered(scale: float) -> None:
    attn = Flat([Alone(n, attn_scale=scale) for n in range(LAYERS)])
    mlp = Flat([Alone(n, mlp_scale=scale) for n in range(LAYERS)])
    assert sites(found(attn)) == {(False, False, True)}
    # What the attention does to such an MLP cannot be told from what it does to the stream.
    assert {b.mlp for b in found(mlp)} == {None}


def test_one_odd_block_costs_no_other_its_branch() -> None:
    blocks = found(Flat([Alone(0), Alone(1, attn_scale=0.5), Alone(2)]))
    assert [b.attn is not None for b in blocks] == [True, False, True]


def test_a_module_that_blocks_share_is_not_steered() -> None:
    model = Decoder([Block(n) for n in range(LAYERS)])
    model.layers[2].self_attn = model.layers[0].self_attn
    blocks = found(model)
    assert [b.attn is not None for b in blocks] == [False, True, False]
    assert {site for site, _ in site_slots(blocks)} == {"resid_post", "mlp_out"}


def test_a_model_is_left_as_it_was() -> None:
    model = Decoder([Block(n) for n in range(LAYERS)])
    x = torch.randn(5, HIDDEN)
    before = model(x)
    found(model)
    assert torch.equal(model(x), before)
    assert not [name for name, m in model.named_modules() if "forward" in vars(m)]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Halves(), r"the sum that block 0 \(Block\) returns is not the stream"),
        (
            Looped([Block(n) for n in range(LAYERS)]),
            r"block 0 \(Block\) .* in two parts, and returned 2$",
        ),
        (
            Flat([Streams(n) for n in range(LAYERS)]),
            r"block 0 \(Streams\) .* in two parts, and returned 0$",
        ),
    ],
    ids=["no-sum", "looped", "four-streams"],
)
def test_models_that_cannot_be_steered_rightly_are_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(NotInstrumentable, match=reason):
        found(model)


def test_a_block_that_is_skipped_is_refused() -> None:
    class Skipping(Decoder):
        def forward(self, x: Tensor) -> Tensor:
            residual = None
            for block in list(self.layers)[:-1]:
                x, residual = block(x, residual)
            normed: Tensor = self.norm(x, residual)[0]
            return normed

    with pytest.raises(NotInstrumentable, match=r"block 2 .* and returned 0$"):
        found(Skipping([Block(n) for n in range(LAYERS)]))


def test_a_block_whose_output_goes_nowhere_is_refused() -> None:
    class Ending(Flat):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.layers:
                final = x
                x = block(x, None)[0]
            return final

    with pytest.raises(NotInstrumentable, match=r"output of block 2 .* is lost"):
        found(Ending([Alone(n) for n in range(LAYERS)]))


def test_a_stream_of_another_width_is_refused() -> None:
    model = Decoder([Block(n) for n in range(LAYERS)])
    with pytest.raises(NotInstrumentable, match=f"a stream {HIDDEN} wide, not 9"):
        probe_blocks(blocks_of(model, LAYERS), lambda n: model(torch.ones(n, HIDDEN)), 9, 64)


class OfOneRank(Decoder):
    """What the first of two ranks computes where each block has half of a step's tokens."""

    def forward(self, x: Tensor) -> Tensor:
        half = super().forward(x[: len(x) // 2])
        return torch.cat((half, half))


def test_blocks_that_have_a_part_of_the_tokens_are_refused() -> None:
    """By what they hold, whichever option makes a model do it."""
    with pytest.raises(
        NotInstrumentable, match=r"block 0 has 3 of a step's 6 tokens .*--enable-exp"
    ):
        found(OfOneRank([Block(n) for n in range(LAYERS)]))


def test_a_branch_that_has_a_part_of_the_tokens_is_no_site() -> None:
    """Nor is the attention before it: how the MLP responds to it is not seen."""

    class Halved(Block):
        def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
            normed, residual = self.input_layernorm(x, residual)
            normed, residual = self.post_attention_layernorm(self.self_attn(normed), residual)
            half = self.mlp(normed[: len(normed) // 2])
            return torch.cat((half, half)), residual

    assert sites(found(Decoder([Halved(n) for n in range(LAYERS)]))) == {(True, False, False)}


def test_outputs_and_their_stream() -> None:
    h, r = torch.randn(2, HIDDEN), torch.randn(2, HIDDEN)
    (block, *_) = blocks_of(Decoder([Block(n) for n in range(LAYERS)]), LAYERS)
    site = "resid_post"
    assert value_parts((h, r), site, replace(block, split=True)) == (h, r)
    assert value_parts((h, r), site, replace(block, split=False)) == (h,)
    assert value_parts((h, None), site, replace(block, split=True)) == (h,)
    assert value_parts((h, r), "attn_out", replace(block, split=True)) == (h,)
    assert torch.equal(stream_part((h[None], None)), h)
    assert len(stream_parts((h[None],))) == 1
    wrong = (None, (h, r, r), (h, r[:1]), torch.stack([h, h]), (None, None), "text")
    for output in wrong:
        with pytest.raises(TypeError):
            stream_parts(output)


class Copied(Alone):
    """What its norm gets is not the tensor that the block goes on with."""

    def forward(self, x: Tensor, residual: Tensor | None) -> Any:
        mid = x + self.self_attn(self.input_layernorm(x)[0])
        return mid + self.mlp(self.post_attention_layernorm(mid.clone())[0]), None


class NormedHalves(Block):
    """Both branches are normed before they join; what is returned is the MLP's and the stream
    before it."""

    def __init__(self, layer: int) -> None:
        super().__init__(layer)
        self.joins = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        normed, residual = self.input_layernorm(x, residual)
        mixed = self.joins[0](self.self_attn(normed))
        normed, residual = self.post_attention_layernorm(mixed, residual)
        return self.joins[1](self.mlp(normed)), residual


class Input(Alone):
    """What its norm gets is the stream before attention."""

    def forward(self, x: Tensor, residual: Tensor | None) -> Any:
        mixed = self.self_attn(self.input_layernorm(x)[0])
        return x + mixed + self.mlp(self.post_attention_layernorm(x)[0]), None


@pytest.mark.parametrize(
    ("model", "there"),
    [
        (Decoder([Block(n) for n in range(LAYERS)]), True),
        (Flat([Alone(n) for n in range(LAYERS)]), True),
        (Flat([Batched(n) for n in range(LAYERS)]), True),
        (Flat([Parallel(n) for n in range(LAYERS)]), False),
        (Flat([PostNorm(n) for n in range(LAYERS)]), False),
        (Decoder([NormedHalves(n) for n in range(LAYERS)]), True),
        (Flat([Copied(n) for n in range(LAYERS)]), False),
        (Flat([Input(n) for n in range(LAYERS)]), False),
        (Flat([Alone(n, attn_scale=0.5) for n in range(LAYERS)]), True),
        (Flat([Alone(n, mlp_scale=0.5) for n in range(LAYERS)]), False),
    ],
    ids=[
        *(
            "halves",
            "whole",
            "batched",
            "parallel",
            "post-norm",
            "normed halves",
            "copied",
            "input",
        ),
        *("scaled attention", "scaled MLP"),
    ],
)
def test_the_stream_between_attention_and_mlp(model: Decoder, there: bool) -> None:
    """It is what the norm before the MLP gets, where that stays in the stream."""
    blocks = found(model)
    norms = [block.post_attention_layernorm for block in model.layers]
    assert [block.mid for block in blocks] == (norms if there else [None] * LAYERS)
    assert ("resid_mid" in all_sites(blocks)) == there
