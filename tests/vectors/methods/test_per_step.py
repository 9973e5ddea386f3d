"""Per-step vectors: the sums, before and behind the attention's output projection."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.vectors.methods import ActivationsInvalid, StepMeans, step_difference
from tests.reference.methods import means as reference
from tests.support.vectors.activations import assert_same_direction

LAYERS, WIDTH, HIDDEN = 2, 6, 9
lengths = st.lists(st.integers(1, 6), min_size=2, max_size=6)


def texts(seed: int, steps: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, LAYERS, WIDTH, generator=generator) for count in steps]


def means(side: list[torch.Tensor]) -> StepMeans:
    found = StepMeans("side")
    for text in side:
        found.add(text)
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), lengths, lengths, st.integers(1, 7))
def test_each_step_rests_on_the_texts_still_alive(
    seed: int, a_steps: list[int], b_steps: list[int], most: int
) -> None:
    a, b = texts(seed, a_steps), texts(seed + 1, b_steps)
    found = step_difference(means(a), means(b), max_steps=most)
    expected = reference.per_step([t.tolist() for t in a], [t.tolist() for t in b], most)
    wanted = torch.tensor(expected, dtype=torch.float64)
    assert_same_direction(found.vectors, wanted)
    torch.testing.assert_close(found.vectors.double(), wanted, rtol=1e-6, atol=1e-6)
    steps = len(expected)
    assert found.alive_positive == tuple(sum(n > i for n in a_steps) for i in range(steps))
    assert found.alive_negative == tuple(sum(n > i for n in b_steps) for i in range(steps))


def test_steps_with_too_few_texts_are_left_out() -> None:
    a, b = means(texts(0, [5, 5, 5])), means(texts(1, [5, 3, 2]))
    assert len(step_difference(a, b).vectors) == 5
    assert len(step_difference(a, b, min_alive=2).vectors) == 3
    assert len(step_difference(a, b, min_alive=3).vectors) == 2


@pytest.mark.parametrize("bias", [False, True])
def test_behind_a_linear_projection_it_is_the_same_vector(bias: bool) -> None:
    torch.manual_seed(0)
    projection = torch.nn.Linear(WIDTH, HIDDEN, bias=bias)
    a, b = texts(0, [4, 4, 3]), texts(1, [4, 3])
    before = step_difference(means(a), means(b)).vectors
    with torch.no_grad():
        one, other = (means([projection(text) for text in side]) for side in (a, b))
        torch.testing.assert_close(
            step_difference(one, other).vectors, before @ projection.weight.T
        )


def test_a_bad_step_counts_nothing_of_its_text() -> None:
    side = means(texts(0, [2, 2]))
    alive = side.alive
    bad = texts(1, [4])[0]
    bad[3, 0, 0] = float("inf")
    with pytest.raises(ActivationsInvalid, match="step 3"):
        side.add(bad)
    with pytest.raises(ActivationsInvalid, match="has shape"):
        side.add(torch.randn(4, LAYERS, WIDTH + 1))
    assert side.alive == alive == (2, 2)
    other = means(texts(2, [2, 2]))
    expected = step_difference(means(texts(0, [2, 2])), other)
    assert torch.equal(step_difference(side, other).vectors, expected.vectors)


def test_sides_may_agree_at_a_step_but_not_at_all() -> None:
    a, b = texts(0, [3, 3]), texts(1, [3, 3])
    for one, other in zip(a, b, strict=True):
        other[1] = one[1]
    assert not step_difference(means(a), means(b)).vectors[1].any()
    for one, other in zip(a, b, strict=True):
        other[:, 1] = one[:, 1]
    with pytest.raises(ActivationsInvalid) as caught:
        step_difference(means(a), means(b))
    assert caught.value.layers == (1,)


def test_no_texts_or_one_are_too_few() -> None:
    full = means(texts(0, [3, 3]))
    for short in (StepMeans("b"), means(texts(1, [3]))):
        with pytest.raises(ActivationsInvalid) as caught:
            step_difference(full, short)
        assert caught.value.code == "too_few_rows"
