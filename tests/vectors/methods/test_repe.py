"""The principal component, against the eigenvectors of a covariance matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.vectors.methods import ActivationsInvalid, mean_difference, principal_component
from steersman.vectors.methods.repe import CENTRINGS, Centring
from tests.reference.methods.component import principal_component as reference
from tests.support.vectors.activations import assert_same_direction, cosines, two_sides


@pytest.mark.parametrize("centring", CENTRINGS)
# Not random: a draw whose two largest components are equally long would have no answer.
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), pairs=st.integers(6, 60))
def test_every_layer_has_the_reference_direction(centring: Centring, seed: int, pairs: int) -> None:
    positive, negative = two_sides(seed, pairs, gap=2.0)
    found = principal_component(positive, negative, centring)
    expected = [
        reference(positive[:, layer].numpy(), negative[:, layer].numpy(), centring == "pca_center")
        for layer in range(positive.shape[1])
    ]
    assert_same_direction(found, torch.tensor(np.array(expected)))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))


@pytest.mark.parametrize("centring", CENTRINGS)
def test_many_dimensions_where_the_default_solver_would_draw_lots(centring: Centring) -> None:
    positive, negative = two_sides(1, 40, layers=2, hidden=700, gap=0.5)
    found = principal_component(positive, negative, centring)
    expected = [
        reference(positive[:, layer].numpy(), negative[:, layer].numpy(), centring == "pca_center")
        for layer in range(2)
    ]
    assert_same_direction(found, torch.tensor(np.array(expected)))
    assert torch.equal(found, principal_component(positive, negative, centring))


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs that differ by a constant along axis 0, and by a spread about zero along axis 1."""
    spread = torch.tensor([-2.0, -1.0, 0.5, 0.7, 0.9, 0.8])
    gap = torch.zeros(6, 1, 4)
    gap[:, 0, 0], gap[:, 0, 1] = 5.0, spread
    middle = torch.arange(24.0).reshape(6, 1, 4)
    return middle + gap / 2, middle - gap / 2


def test_pca_diff_loses_the_mean_difference_and_pca_center_keeps_it() -> None:
    positive, negative = planted()
    along_mean = torch.tensor([[1.0, 0, 0, 0]])
    along_spread = torch.tensor([[0, 1.0, 0, 0]])
    assert_same_direction(principal_component(positive, negative, "pca_diff"), along_spread)
    kept = principal_component(positive, negative, "pca_center")
    assert float(cosines(kept, along_mean)) > 0.99


def test_the_sign_is_that_of_the_majority_not_of_the_mean() -> None:
    # Four of six samples lie further along +axis 1; swapping the sides turns the vector round. The
    # mean along it is slightly negative, were it made so.
    positive, negative = planted()
    positive[0, 0, 1] -= 40
    found = principal_component(positive, negative, "pca_diff")
    assert float((positive - negative)[:, 0, 1].mean()) < 0 < float(found[0, 1])
    turned = principal_component(negative, positive, "pca_diff")
    torch.testing.assert_close(turned, -found)


def test_a_tie_of_signs_goes_to_the_mean() -> None:
    gap = torch.zeros(4, 1, 3)
    gap[:, 0, 0] = torch.tensor([-3.0, -3.0, 4.0, 4.0])
    found = principal_component(torch.ones(4, 1, 3) + gap, torch.ones(4, 1, 3), "pca_diff")
    assert_same_direction(found, torch.tensor([[1.0, 0, 0]]))


def test_pairs_that_all_differ_by_the_same_have_no_centred_component() -> None:
    positive, negative = two_sides(3, 5)
    negative = positive - 1.0
    with pytest.raises(ActivationsInvalid) as caught:
        principal_component(positive, negative, "pca_diff")
    assert caught.value.code == "identical_sides"
    assert_same_direction(
        principal_component(positive, negative, "pca_center"), mean_difference(positive, negative)
    )


def test_an_unknown_centring_is_refused() -> None:
    with pytest.raises(ActivationsInvalid, match="centring must be one of"):
        principal_component(*two_sides(0, 4), "pca")  # type: ignore[arg-type]
