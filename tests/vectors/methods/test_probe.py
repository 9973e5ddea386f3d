"""The probe, against logistic regression by Newton's method."""

import numpy as np
import pytest
import torch

from tests.reference.methods.logistic import logistic, standardised
from tests.vectors.methods.rows import assert_same_direction, two_sides
from vectors.methods import ActivationsInvalid, mean_difference, probe, probe_direction
from vectors.methods.split import Sides, split


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
):
    positive, negative = two_sides(seed, many, few, gap=gap)
    found = probe(positive, negative, c=c)
    expected = expected_direction(positive, negative, c)
    assert_same_direction(found.direction, expected)
    torch.testing.assert_close(found.direction.norm(dim=-1), torch.ones(3))
    means = mean_difference(positive, negative).double()
    scaled = (means * expected).sum(-1, keepdim=True) * expected
    torch.testing.assert_close(found.scaled.double(), scaled, rtol=1e-3, atol=2e-4)
    assert torch.equal(probe_direction(positive, negative, c=c, length="scaled"), found.scaled)
    assert torch.equal(probe_direction(positive, negative, c=c), found.direction)


def test_more_dimensions_than_rows():
    positive, negative = two_sides(5, 30, layers=2, hidden=600)
    found = probe_direction(positive, negative)
    assert_same_direction(found, expected_direction(positive, negative, 1.0))


@pytest.mark.parametrize("paired", [False, True])
def test_held_out_accuracy_is_of_rows_not_fitted(paired: bool):
    positive, negative = two_sides(7, 20, gap=0.4)
    found = probe(positive, negative, seed=3, paired=paired)
    for layer in range(3):
        known, unknown = split(Sides(positive, negative).at(layer), 0.3, 3, paired=paired)
        fitted = [side[:, 0].numpy().astype(np.float64) for side in known]
        weights, intercept = logistic(*fitted, 1.0)
        centre = np.concatenate(fitted).mean(axis=0)
        scale = (np.concatenate(fitted) - centre).std() / standardised(*fitted).std()
        scores = [((side[:, 0].numpy() - centre) / scale) @ weights + intercept for side in unknown]
        right = ((scores[0] > 0).mean() + (scores[1] <= 0).mean()) / 2
        assert found.held_out_accuracy[layer] == pytest.approx(right)


def test_labels_without_meaning_are_told_at_chance_and_clear_ones_always():
    noise = torch.randn(400, 1, 40, generator=torch.Generator().manual_seed(0))
    chance = probe(noise[:200], noise[200:]).held_out_accuracy[0]
    assert 0.35 < chance < 0.65
    clear = noise[:200].clone()
    clear[..., 3] += 20
    assert probe(clear, noise[200:]).held_out_accuracy == (1.0,)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_penalty_is_refused(c: float):
    with pytest.raises(ActivationsInvalid, match="c must be positive"):
        probe(*two_sides(0, 6), c=c)
