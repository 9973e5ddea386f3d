"""The probe, against logistic regression by Newton's method."""

import numpy as np
import pytest
import torch

from steersman.vectors.methods import ActivationsInvalid, mean_difference, probe_direction
from tests.reference.methods.logistic import logistic
from tests.support.vectors.activations import assert_same_direction, two_sides


def expected_direction(positive: torch.Tensor, negative: torch.Tensor, c: float) -> torch.Tensor:
    found = []
    for layer in range(positive.shape[1]):
        weights, _ = logistic(positive[:, layer].numpy(), negative[:, layer].numpy(), c)
        found.append(weights / np.sqrt((weights**2).sum()))
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("many", "few"), [(4, 4), (40, 7)])
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("gap", [0.1, 2.0])
def test_every_layer_has_the_reference_direction(
    seed: int, many: int, few: int, c: float, gap: float
) -> None:
    positive, negative = two_sides(seed, many, few, gap=gap)
    found = probe_direction(positive, negative, c=c)
    expected = expected_direction(positive, negative, c)
    assert_same_direction(found, expected)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    means = mean_difference(positive, negative).double()
    scaled = (means * expected).sum(-1, keepdim=True) * expected
    found = probe_direction(positive, negative, c=c, length="scaled")
    torch.testing.assert_close(found.double(), scaled, rtol=1e-3, atol=2e-4)


def test_more_dimensions_than_rows() -> None:
    positive, negative = two_sides(5, 30, layers=2, hidden=600)
    found = probe_direction(positive, negative)
    assert_same_direction(found, expected_direction(positive, negative, 1.0))


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_penalty_is_refused(c: float) -> None:
    with pytest.raises(ActivationsInvalid, match="c must be positive"):
        probe_direction(*two_sides(0, 6), c=c)
