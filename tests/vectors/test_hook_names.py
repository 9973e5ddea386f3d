"""`resid_pre.L` is `resid_post.(L-1)`, in names, in places and in whole vectors."""

from typing import Any

import pytest
import torch

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import SteeringVector
from steersman.vectors.hook_names import as_steered, parse_hook_name, steered_place, steered_places
from steersman.vectors.tensors import HookPoint


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("resid_post.14", HookPoint("resid_post", 14)),
        ("blocks.12.hook_resid_pre", HookPoint("resid_pre", 12)),
        ("blocks.0.hook_resid_mid", HookPoint("resid_mid", 0)),
        ("blocks.9.hook_resid_post", HookPoint("resid_post", 9)),
        ("blocks.9.hook_attn_out", HookPoint("attn_out", 9)),
        ("blocks.9.hook_mlp_out", HookPoint("mlp_out", 9)),
        ("blocks.9.hook_resid", None),
        ("blocks.09.hook_resid_post", None),
        ("blocks.9.attn.hook_z", None),
        ("blocks.-1.hook_resid_post", None),
        ("resid_post.14\n", None),
        ("resid_post.10000", None),
    ],
)
def test_names(name: str, key: Any) -> None:
    assert parse_hook_name(name) == key


def test_an_input_is_the_output_before() -> None:
    assert steered_place(HookPoint("resid_pre", 12)) == HookPoint("resid_post", 11)
    assert steered_place(HookPoint("resid_pre", 1)) == HookPoint("resid_post", 0)
    for key in (
        HookPoint("resid_post", 12),
        HookPoint("resid_mid", 3),
        HookPoint("attn_out", 0),
        HookPoint("mlp_out", 5),
    ):
        assert steered_place(key) == key
    with pytest.raises(VectorInvalid) as caught:
        steered_place(HookPoint("resid_pre", 0), "blocks.0.hook_resid_pre")
    assert caught.value.param == "blocks.0.hook_resid_pre"


def test_one_place_under_two_names_is_refused() -> None:
    assert steered_places([HookPoint("resid_pre", 12), HookPoint("resid_post", 12)]) == {
        HookPoint("resid_pre", 12): HookPoint("resid_post", 11),
        HookPoint("resid_post", 12): HookPoint("resid_post", 12),
    }
    with pytest.raises(VectorInvalid) as caught:
        steered_places([HookPoint("resid_post", 11), HookPoint("resid_pre", 12)])
    assert (caught.value.param, caught.value.code) == ("resid_pre.12", "duplicate_hook_point")
    assert "resid_post.11" in caught.value.message


def test_a_vector_moves_with_its_layers_and_norms() -> None:
    given = SteeringVector(
        {HookPoint("resid_pre", n): torch.full((4,), float(n)) for n in (3, 5)},
        name="calm",
        coefficient=2.0,
        layers=(5,),
        norms={"resid_pre.3": 6.0, "resid_pre.5": 10.0},
    )
    moved = as_steered(given)
    assert list(moved.tensors) == [HookPoint("resid_post", 2), HookPoint("resid_post", 4)]
    assert torch.equal(
        moved.tensors[HookPoint("resid_post", 4)], given.tensors[HookPoint("resid_pre", 5)]
    )
    assert (moved.layers, moved.coefficient, moved.name) == ((4,), 2.0, "calm")
    assert moved.norms == {"resid_post.2": 6.0, "resid_post.4": 10.0}
    assert as_steered(moved) is moved


def test_layers_that_would_come_to_mean_another_tensor_are_refused() -> None:
    tensors = {HookPoint("resid_pre", 5): torch.ones(4), HookPoint("attn_out", 4): torch.ones(4)}
    with pytest.raises(VectorInvalid) as caught:
        as_steered(SteeringVector(tensors, layers=(5,)))
    assert caught.value.param == "layers"
    assert as_steered(SteeringVector(tensors)).layers == (4,)
    both = {HookPoint("resid_pre", 5): torch.ones(4), HookPoint("resid_post", 5): torch.ones(4)}
    assert as_steered(SteeringVector(both, layers=(5,))).layers == (4, 5)
