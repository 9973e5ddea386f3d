"""Blocks and their parts, found by structure."""

import pytest
from torch import nn

from steering.blocks import NotInstrumentable, find_blocks
from steering.instrument import site_slots
from tests.steering.tiny import Attention, Block, Decoder, Linear, Mlp, RMSNorm, decoder


def test_a_plain_pre_norm_decoder() -> None:
    model = decoder(3)
    blocks = find_blocks(model, 3)
    assert [b.layer for b in blocks] == [0, 1, 2]
    for block, module in zip(blocks, model.layers, strict=True):
        assert block.module is module
        assert block.attn is module.self_attn
        assert block.mlp is module.mlp


def test_names_do_not_matter() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ff, self.ln_a = Mlp(1), RMSNorm()
            self.ln_b, self.core = RMSNorm(), Attention(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h = nn.ModuleList([Renamed(), Renamed()])

    model = Model()
    blocks = find_blocks(model, 2)
    assert [(b.attn, b.mlp) for b in blocks] == [(b.core, b.ff) for b in model.h]


def with_children(**children: nn.Module) -> Decoder:
    block = nn.Module()
    for name, child in children.items():
        block.add_module(name, child)
    return Decoder([block])


@pytest.mark.parametrize(
    "model",
    [
        # Norms after the branches: a branch's output is not what joins the stream.
        with_children(
            a=Attention(0), m=Mlp(1), n1=RMSNorm(), n2=RMSNorm(), n3=RMSNorm(), n4=RMSNorm()
        ),
        # Parallel branches behind one norm.
        with_children(a=Attention(0), m=Mlp(1), n1=RMSNorm()),
        # Two mixers; and two MLPs.
        with_children(a=Attention(0), b=Attention(2), m=Mlp(1), n1=RMSNorm(), n2=RMSNorm()),
        with_children(a=Attention(0), m=Mlp(1), k=Mlp(3), n1=RMSNorm(), n2=RMSNorm()),
    ],
    ids=["post-norm", "parallel", "two-mixers", "two-mlps"],
)  # fmt: skip
def test_branches_that_cannot_be_told_are_not_steered(model: Decoder) -> None:
    (block,) = find_blocks(model, 1)
    assert (block.attn, block.mlp) == (None, None)
    assert site_slots([block]) == {("resid_post", 0): 0}


def test_branches_that_the_model_scales_are_not_steered() -> None:
    blocks = find_blocks(decoder(2), 2, plain=False)
    assert site_slots(blocks) == {("resid_post", 0): 0, ("resid_post", 1): 1}


def test_a_site_is_there_at_all_blocks_or_at_none() -> None:
    odd = Block(1)
    odd.add_module("second_mlp", Mlp(9))
    assert site_slots(find_blocks(Decoder([Block(0), odd]), 2)) == {
        ("resid_post", 0): 0,
        ("resid_post", 1): 1,
    }


def test_slots_are_numbered_site_by_site() -> None:
    slots = site_slots(find_blocks(decoder(3), 3))
    assert sorted(slots.values()) == list(range(9))
    assert [slots["attn_out", n] for n in range(3)] == [3, 4, 5]


def test_no_list_of_blocks_is_refused() -> None:
    with pytest.raises(NotInstrumentable, match="expected one list of 5 decoder blocks"):
        find_blocks(decoder(4), 5)


def test_two_lists_of_blocks_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = decoder(2), decoder(2)

    with pytest.raises(NotInstrumentable, match=r"encoder\.layers, decoder\.layers"):
        find_blocks(Two(), 2)


def test_a_block_without_attention_is_refused_by_number() -> None:
    with pytest.raises(NotInstrumentable, match=r"block 1 \(Linear\) has no attention"):
        find_blocks(Decoder([Block(0), Linear(0)]), 2)
