"""A condition for gates: its direction, its measure and its cut, against the paper's arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.vectors.methods import ActivationsInvalid
from steersman.vectors.methods.cast import best_cut, condition_direction, f1_of, similarity
from steersman.vectors.methods.quality import measure_condition
from tests.reference.methods import condition
from tests.support.vectors.activations import assert_same_direction, two_sides


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), positive=st.integers(4, 30), negative=st.integers(4, 30))
def test_every_layer_has_the_component_of_all_samples(
    seed: int, positive: int, negative: int
) -> None:
    sides = two_sides(seed, positive, negative)
    found = condition_direction(*sides)
    for layer, one in enumerate(found):
        plus, minus = (side[:, layer].numpy() for side in sides)
        expected = condition.component(plus, minus)
        towards = plus.mean(0, np.float64) - minus.mean(0, np.float64)
        expected *= np.sign(expected @ towards)
        assert_same_direction(one[None], expected[None])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))


def test_the_mean_difference_in_its_place() -> None:
    plus, minus = two_sides(4, 9)
    found = condition_direction(plus, minus, direction="mean_difference")
    assert_same_direction(found, plus.double().mean(0) - minus.double().mean(0))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, -1.0])
def test_the_measure_is_the_papers_and_does_not_depend_on_length_or_sign(scale: float) -> None:
    plus, _ = two_sides(5, 12)
    direction = torch.randn(24, generator=torch.Generator().manual_seed(1))
    found = similarity(plus[:, 0], scale * direction)
    expected = [condition.cast(h.tolist(), direction.tolist()) for h in plus[:, 0]]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


# Whole hundredths: many values are the same, which no threshold tells apart.
values = st.lists(st.integers(0, 40).map(lambda n: n / 100), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(positive=values, negative=values)
def test_no_threshold_has_a_better_f1(positive: list[float], negative: list[float]) -> None:
    sides = [torch.tensor(side, dtype=torch.float64) for side in (positive, negative)]
    cut = best_cut(*sides)
    assert cut.f1 == pytest.approx(condition.best_f1(positive, negative))
    assert f1_of(cut, *sides) == pytest.approx(cut.f1)


def test_of_equal_cuts_the_one_in_the_widest_gap() -> None:
    high, low = torch.tensor([0.5, 0.9]).double(), torch.tensor([0.1, 0.2]).double()
    for side, cut in (("above", best_cut(high, low)), ("below", best_cut(low, high))):
        assert (cut.side, cut.f1) == (side, 1.0)
        assert cut.threshold == pytest.approx(0.35)


def test_an_unknown_direction_is_an_error() -> None:
    with pytest.raises(ActivationsInvalid) as caught:
        condition_direction(*two_sides(0, 4), direction="best")  # type: ignore[arg-type]
    assert caught.value.param == "direction"


def measured(positive: torch.Tensor, negative: torch.Tensor, **how: object) -> dict[str, object]:
    return measure_condition(
        condition_direction(positive, negative), positive, negative, condition_direction,
        layers=[3, 7, 9], median_norms=[1.0, 2.0, 4.0], over="prompt_mean", **how,  # type: ignore[arg-type]
    )  # fmt: skip


def apart(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of which one layer tells the sides apart, by far."""
    generator = torch.Generator().manual_seed(8)
    plus, minus = (torch.randn(24, 3, 16, generator=generator) for _ in range(2))
    plus[:, layer, 5] += 20
    return plus, minus


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_gate_is_at_the_layer_that_decides(place: int) -> None:
    found = measured(*apart(place))
    layer = [3, 7, 9][place]
    gate = found["gate"]
    assert isinstance(gate, dict)
    assert set(gate) == {"layer", "measure", "above", "over"}
    assert (gate["layer"], gate["measure"], gate["over"]) == (layer, "cast", "prompt_mean")
    held_out = found["held_out_f1"][f"resid_post.{layer}"]  # type: ignore[index]
    assert found["recommended"] == {**gate, "held_out_f1": held_out}
    assert held_out > 0.9
    assert found["f1"][f"resid_post.{layer}"] == 1.0  # type: ignore[index]
    assert found == measured(*apart(place))


def test_turned_around_it_is_below() -> None:
    gate = measured(*reversed(apart(1)))["gate"]
    assert isinstance(gate, dict)
    assert set(gate) == {"layer", "measure", "below", "over"}


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_not_recommended(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    plus, minus = (torch.randn(20, 3, 16, generator=generator) for _ in range(2))
    found = measured(plus, minus, seed=seed)
    assert found["recommended"] is None
    assert "shuffled labels" in str(found["reason"])
    assert found["gate"]


def test_few_samples_have_a_gate_and_no_measure() -> None:
    plus, minus = apart(1)
    found = measured(plus[:3], minus[:3])
    assert "held_out_f1" not in found
    assert "at least 4" in str(found["reason"])
    assert found["gate"]["layer"] == 7  # type: ignore[index]
