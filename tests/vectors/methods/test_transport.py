"""Activation transport against the paper's lines, element by element."""

import pytest
import torch

from steersman.vectors.methods import ActivationsInvalid, act_linear, act_mean
from tests.reference.methods.transport import line
from tests.support.vectors.activations import two_sides


def test_each_element_has_the_line_through_its_pairs_in_order() -> None:
    positive, negative = two_sides(3, 20)
    found = act_linear(positive, negative)
    assert found.shape == (positive.shape[1], 4, positive.shape[2])
    for layer in range(positive.shape[1]):
        for at in range(positive.shape[2]):
            x, y = (side[:, layer, at].tolist() for side in (negative, positive))
            assert found[layer, :, at].tolist() == pytest.approx(line(x, y), rel=1e-5, abs=1e-6)


def test_a_side_that_is_a_line_of_the_other_is_met_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, 5, generator=generator)
    weight, bias = torch.rand(2, 5, generator=generator) + 0.5, torch.randn(2, 5)
    y = weight * x + bias
    found = act_linear(y[torch.randperm(30, generator=generator)], x, support="everywhere")
    assert torch.allclose(found[:, 0], weight, atol=1e-5)
    assert torch.allclose(found[:, 1], bias, atol=1e-5)
    assert bool((found[:, 2] < -1e38).all() and (found[:, 3] > 1e38).all())


def test_sides_of_different_sizes_are_paired_by_their_quantiles() -> None:
    """Each sample twice is the same distribution: the same map, but for the ends."""
    positive, negative = two_sides(1, 200)
    whole = act_linear(positive, negative)
    twice = act_linear(positive.repeat_interleave(2, dim=0), negative)
    assert torch.allclose(twice[:, :2], whole[:, :2], atol=0.02)
    assert torch.equal(twice[:, 2:], whole[:, 2:])


def test_the_mean_alone() -> None:
    positive, negative = two_sides(2, 10)
    found = act_mean(positive, negative)
    assert torch.equal(found[:, 0], torch.ones_like(found[:, 0]))
    shift = positive.double().mean(0) - negative.double().mean(0)
    assert torch.allclose(found[:, 1].double(), shift, atol=1e-6)


@pytest.mark.parametrize("make", [act_linear, act_mean])
def test_an_element_that_does_not_vary_stays(make: object) -> None:
    positive, negative = two_sides(2, 10)
    negative[:, 0, 1] = 0.25
    found = make(positive, negative)  # type: ignore[operator]
    assert (found[0, 0, 1], found[0, 1, 1]) == (1.0, 0.0)
    assert found.isfinite().all()


def test_sides_that_are_the_same_are_an_error() -> None:
    positive, _ = two_sides(2, 10)
    with pytest.raises(ActivationsInvalid):
        act_linear(positive, positive)
