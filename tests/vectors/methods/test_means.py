"""CAA, style, mean difference: equal, in scale too, to sums taken number by number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.vectors.methods import ActivationsInvalid, caa, mean_difference, rescale
from steersman.vectors.methods.activations import Mean
from tests.reference.methods import means as reference
from tests.support.vectors.activations import assert_same_direction, two_sides

counts = st.integers(2, 9)
seeds = st.integers(0, 2**31)


def same(found: torch.Tensor, expected: object) -> None:
    assert_same_direction(found, expected)
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds, counts)
def test_caa_is_the_mean_of_the_pairs_differences(seed: int, pairs: int) -> None:
    positive, negative = two_sides(seed, pairs)
    expected = reference.caa(list(zip(positive.tolist(), negative.tolist(), strict=True)))
    same(caa(positive, negative), expected)


@settings(max_examples=20, deadline=None)
@given(seeds, counts, counts)
def test_mean_difference_takes_sides_of_any_sizes(seed: int, many: int, few: int) -> None:
    positive, negative = two_sides(seed, many, few)
    expected = reference.minus(reference.mean(positive.tolist()), reference.mean(negative.tolist()))
    same(mean_difference(positive, negative), expected)
    same(mean_difference(iter(positive), list(negative)), expected)
    assert torch.equal(mean_difference(negative, positive), -mean_difference(positive, negative))


@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(counts, min_size=2, max_size=4))
def test_a_style_stands_against_every_sentence_of_the_others(seed: int, sizes: list[int]) -> None:
    samples = {f"s{i}": two_sides(seed + i, size)[i % 2] for i, size in enumerate(sizes)}
    sentences = [(name, sample) for name, stack in samples.items() for sample in stack.tolist()]
    for name, own in samples.items():
        # As `Method.fit` has it: the other side is all other styles' samples together.
        others = torch.cat([stack for other, stack in samples.items() if other != name])
        same(mean_difference(own, others), reference.style(sentences, name))


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 4))
def test_rescaled_behaviours_have_one_length(seed: int, behaviours: int) -> None:
    vectors = {f"b{i}": (i + 1) * caa(*two_sides(seed + i, 3)) for i in range(behaviours)}
    found = rescale(vectors)
    expected = reference.rescaled({name: v.tolist() for name, v in vectors.items()})
    for name in vectors:
        same(found[name], expected[name])
    lengths = torch.stack([vector.norm(dim=-1) for vector in found.values()])
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))


def test_sums_are_wider_than_float32() -> None:
    # In float32 the sum of 3000 samples near 1e4 loses the difference of 1e-3 between the sides.
    sample = torch.full((1, 4), 1e4)
    other = torch.full((1, 4), 1e4 + 1 / 64)
    found = mean_difference([other] * 3000, [sample] * 3000)
    assert torch.equal(found, torch.full((1, 4), 1 / 64))


def test_a_bad_row_is_named_and_leaves_the_sum_as_it_was() -> None:
    samples, _ = two_sides(0, 4)
    bad = samples[1].clone()
    bad[2, 5] = float("nan")
    mean = Mean()
    mean.add(samples[0])
    for sample in (bad, samples[1][:2]):
        with pytest.raises(ActivationsInvalid, match="sample 1 of"):
            mean.add(sample)
    mean.add(samples[2])
    assert torch.equal(mean.value(), Mean.of(samples[[0, 2]], "samples").value())


def test_layers_where_the_sides_agree_are_named() -> None:
    positive, negative = two_sides(0, 4)
    negative[:, 1] = positive[:, 1]
    with pytest.raises(ActivationsInvalid, match="do not differ") as caught:
        mean_difference(positive, negative)
    assert caught.value.layers == (1,)
    assert caught.value.code == "identical_sides"
