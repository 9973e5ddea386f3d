"""Blocks and their parts, found by structure."""

import pytest
from torch import nn
from vllm.model_executor.models.utils import PPMissingLayer

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.hooks import site_slots
from steersman.vectors.tensors import HookPoint
from tests.support.steering.tiny import (
    Attention,
    Block,
    Decoder,
    Linear,
    Mlp,
    RMSNorm,
    blocks_of,
    decoder,
)


def test_a_plain_pre_norm_decoder() -> None:
    model = decoder(3)
    blocks = blocks_of(model, 3)
    assert [b.layer for b in blocks] == [0, 1, 2]
    for block, module in zip(blocks, model.layers, strict=True):
        assert block.module is module
        assert block.attn is module.self_attn
        assert block.mlp is module.mlp


def test_blocks_of_other_stages_are_passed_over() -> None:
    model = decoder(4)
    for n in (0, 1):
        model.layers[n] = PPMissingLayer()
    assert [(b.layer, b.module) for b in blocks_of(model, 4)] == [
        (n, model.layers[n]) for n in (2, 3)
    ]


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
    blocks = blocks_of(model, 2)
    assert [(b.attn, b.mlp) for b in blocks] == [(b.core, b.ff) for b in model.h]


def with_children(**children: nn.Module) -> Decoder:
    block = nn.Module()
    for name, child in children.items():
        block.add_module(name, child)
    return Decoder([block])


def test_norms_are_no_branches() -> None:
    model = with_children(n1=RMSNorm(), a=Attention(0), n2=RMSNorm(), m=Mlp(1), n3=RMSNorm())
    (block,) = blocks_of(model, 1)
    assert (block.attn, block.mlp) == (model.layers[0].a, model.layers[0].m)


def test_a_branch_that_cannot_be_told_from_another_is_not_steered() -> None:
    two_mixers = with_children(a=Attention(0), b=Attention(2), m=Mlp(1))
    two_mlps = with_children(a=Attention(0), m=Mlp(1), k=Mlp(3))
    (first,), (second,) = blocks_of(two_mixers, 1), blocks_of(two_mlps, 1)
    assert (first.attn, first.mlp) == (None, two_mixers.layers[0].m)
    assert (second.attn, second.mlp) == (two_mlps.layers[0].a, None)
    assert site_slots([first]) == {HookPoint("resid_post", 0): 0, HookPoint("mlp_out", 0): 1}


def test_a_site_is_there_at_all_blocks_or_at_none() -> None:
    odd = Block(1)
    odd.add_module("second_mlp", Mlp(9))
    assert site_slots(blocks_of(Decoder([Block(0), odd]), 2)) == {
        HookPoint("resid_post", 0): 0,
        HookPoint("resid_post", 1): 1,
        HookPoint("attn_out", 0): 2,
        HookPoint("attn_out", 1): 3,
    }


def test_slots_are_numbered_site_by_site() -> None:
    slots = site_slots(blocks_of(decoder(3), 3))
    assert sorted(slots.values()) == list(range(9))
    assert [slots[HookPoint("attn_out", n)] for n in range(3)] == [3, 4, 5]


def test_no_list_of_blocks_is_refused() -> None:
    with pytest.raises(NotInstrumentable, match="expected one list of 5 decoder blocks"):
        blocks_of(decoder(4), 5)


def test_two_lists_of_blocks_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = decoder(2), decoder(2)

    with pytest.raises(NotInstrumentable, match=r"encoder\.layers, decoder\.layers"):
        blocks_of(Two(), 2)


def test_blocks_that_are_in_a_second_list_too_are_found_once() -> None:
    model = decoder(2)
    model.first_half = nn.ModuleList(model.layers)
    assert [block.module for block in blocks_of(model, 2)] == list(model.layers)


def test_of_several_modalities_the_language_model_is_steered() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision, self.text = decoder(2), decoder(2)

        def get_language_model(self) -> nn.Module:
            return self.text

    model = Both()
    assert [block.module for block in blocks_of(model, 2)] == list(model.text.layers)


def test_lists_without_attention_are_not_blocks_but_single_blocks_may_lack_it() -> None:
    hybrid = Decoder([Block(0), with_children(m=Mlp(1)).layers[0]])
    hybrid.experts = nn.ModuleList([Linear(0), Linear(1)])
    assert [block.module for block in blocks_of(hybrid, 2)] == list(hybrid.layers)
    with pytest.raises(NotInstrumentable, match="found: none"):
        blocks_of(Decoder([Linear(0), Linear(1)]), 2)
