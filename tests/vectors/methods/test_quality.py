"""Quality measures: against counting by hand, and right about vectors whose worth is known."""

import json
import sys
from typing import Any

import pytest
import torch

from steersman.vectors.file.format import read_vector, write_vector
from steersman.vectors.methods import METHODS, ActivationsInvalid, mean_difference
from steersman.vectors.methods.quality import (
    measure,
    norm_measures,
    recommend,
    separation,
    split_half_cosine,
)
from steersman.vectors.methods.split import Sides, relabelled, split
from tests.reference.methods.logistic import auroc
from tests.support.vectors.activations import two_sides
from tests.support.vectors.make import vector

LAYERS = [4, 5, 6]


@pytest.mark.parametrize("paired", [False, True])
def test_a_split_holds_out_the_share_and_loses_nothing(paired: bool) -> None:
    samples = torch.arange(20.0).reshape(20, 1, 1)
    sides = Sides(samples, samples + 100 if paired else samples[:9] + 100)
    for seed in range(5):
        known, unknown = split(sides, 0.3, seed, paired=paired)
        for side, first, second in zip(sides, known, unknown, strict=True):
            assert sorted(torch.cat([first, second]).flatten().tolist()) == side.flatten().tolist()
            assert len(second) == round(0.3 * len(side))
        if paired:
            assert torch.equal(unknown.positive + 100, unknown.negative)
        again = split(sides, 0.3, seed, paired=paired)
        assert torch.equal(again[1].positive, unknown.positive)
    assert not torch.equal(split(sides, 0.3, 99, paired=paired)[1].positive, unknown.positive)


@pytest.mark.parametrize("paired", [False, True])
def test_separation_is_the_auroc_of_rows_not_fitted(paired: bool) -> None:
    positive, negative = two_sides(0, 14, gap=0.3)
    found = separation(positive, negative, mean_difference, paired=paired, seed=5, repeats=3)
    for layer in range(3):
        expected = 0.0
        for seed in (5, 6, 7):
            known, unknown = split(Sides(positive, negative).at(layer), 0.3, seed, paired=paired)
            direction = (known.positive.double().mean(0) - known.negative.double().mean(0))[0]
            scores = [
                [float(sample[0] @ direction) for sample in side.double()] for side in unknown
            ]
            expected += auroc(*scores) / 3
        assert found[layer] == pytest.approx(expected, abs=1e-9)


def test_equals_count_half() -> None:
    """Samples of whole numbers, of which many are the same along the direction."""
    samples = torch.tensor([[3.0, 1, 2, 2, 3, 1, 2, 3], [1.0, 2, 2, 0, 3, 1, 2, 1]])[
        ..., None, None
    ]
    found = separation(samples[0], samples[1], lambda *_: torch.ones(1, 1), seed=1, repeats=2)
    expected = 0.0
    for seed in (1, 2):
        _, unknown = split(Sides(*samples), 0.3, seed, paired=False)
        expected += auroc(*(side.flatten().tolist() for side in unknown)) / 2
    assert found == [pytest.approx(expected, abs=1e-12)]


def test_nothing_here_needs_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with `--no-deps` has none, and the methods that do without go on."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert "separation" in measured(*two_sides(0, 12))


def test_split_half_cosine_is_between_the_halves_directions() -> None:
    positive, negative = two_sides(0, 10, gap=0.3)
    found = split_half_cosine(positive, negative, mean_difference, paired=True, seed=2, repeats=1)
    for layer in range(3):
        halves = split(Sides(positive, negative).at(layer), 0.5, 2, paired=True)
        one, other = (h.positive.mean(0)[0] - h.negative.mean(0)[0] for h in halves)
        expected = torch.cosine_similarity(one, other, dim=0)
        assert found[layer] == pytest.approx(float(expected), abs=1e-5)


def measured(positive: torch.Tensor, negative: torch.Tensor, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "layers": LAYERS,
        "num_layers": 10,
        "median_norms": [100.0, 110.0, 120.0],
        "seed": 1,
        **changes,
    }
    return measure(
        mean_difference(positive, negative), positive, negative, mean_difference, **given
    )


def test_noise_is_near_chance_and_a_clear_difference_is_not() -> None:
    noise = torch.randn(200, 3, 30, generator=torch.Generator().manual_seed(0))
    positive, negative = noise[:100], noise[100:]
    bad = measured(positive, negative)
    assert all(0.35 < value < 0.65 for value in bad["separation"].values())
    assert all(abs(value) < 0.3 for value in bad["split_half_cosine"].values())
    clear = positive.clone()
    clear[:, 1, 7] += 6
    good = measured(clear, negative)
    assert good["separation"]["resid_post.5"] > 0.99
    assert good["split_half_cosine"]["resid_post.5"] > 0.9
    assert good["separation"]["resid_post.4"] == bad["separation"]["resid_post.4"]
    assert bad["recommended"] is None
    assert "shuffled labels" in bad["reason"]
    assert good["recommended"]["layer"] == 5
    assert "reason" not in good
    assert good["null"]["layer"] == 5
    assert 0.4 < good["null"]["separation"]["mean"] < 0.6


def test_the_recommended_coefficient_is_a_share_of_the_layers_norm() -> None:
    positive, negative = two_sides(0, 12, gap=3)
    found = measured(positive, negative)
    best = found["recommended"]
    name = f"resid_post.{best['layer']}"
    assert best["coefficient"] * found["relative_norms"][name] == pytest.approx(0.15)
    assert [c * found["relative_norms"][name] for c in best["range"]] == pytest.approx([0.1, 0.2])
    # What text is like at the ends of the range, nobody has looked: it is not called safe.
    assert "safe_range" not in best


def test_all_of_it_goes_into_a_vectors_metadata_and_comes_back() -> None:
    found = measured(*two_sides(0, 12, gap=3))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    best = found["recommended"]
    made = vector(
        layers=tuple(LAYERS),
        norms=found["norms"],
        coefficient=best["coefficient"],
        method_settings={"quality": found},
    )
    read = read_vector(write_vector(made))
    assert read.method_settings["quality"] == found
    assert read.norms == found["norms"]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, method in METHODS.items()
        if method.fit and method.operation == "add" and not method.gates
    ],
)
def test_every_method_can_be_measured_the_same_twice(name: str) -> None:
    method = METHODS[name]
    sides = two_sides(0, 12)
    assert method.fit is not None
    given: dict[str, Any] = {
        "layers": LAYERS,
        "num_layers": 10,
        "median_norms": [1.0] * 3,
        "paired": method.paired,
    }
    vectors = method.fit(*sides)
    one, other = (measure(vectors, *sides, method.fit, **given) for _ in range(2))
    assert one == other
    assert min(one["separation"].values()) > 0.5 or name == "repe"


def test_a_layer_where_the_sides_agree_is_at_chance_not_an_error() -> None:
    positive, negative = two_sides(0, 12)
    negative[:, 0] = positive[:, 0]
    assert separation(positive, negative, mean_difference, paired=True)[0] == 0.5
    assert split_half_cosine(positive, negative, mean_difference, paired=True)[0] == 0.0


def test_with_too_few_rows_the_measures_are_missing_and_it_says_so() -> None:
    found = measured(*two_sides(0, 3))
    assert "separation" not in found
    assert found["recommended"] is None
    assert "too few to hold some out" in found["reason"]
    with pytest.raises(ActivationsInvalid, match="at least 4"):
        separation(*two_sides(0, 3), mean_difference)


def test_without_median_norms_only_what_needs_them_is_missing() -> None:
    whole = measured(*two_sides(0, 12, gap=3))
    found = measured(*two_sides(0, 12, gap=3), median_norms=None)
    assert set(whole) - set(found) == {"relative_norms"}
    assert found.pop("recommended") is None
    assert "median norms" in found.pop("reason")
    assert found == {name: whole[name] for name in found}
    with pytest.raises(ActivationsInvalid):
        measured(*two_sides(0, 12, gap=3), median_norms=None, layers=[4, 5])


def test_layers_outside_the_middle_are_recommended_only_if_there_are_no_others() -> None:
    whole: dict[str, Any] = {
        "num_layers": 10,
        "median_norms": [1.0] * 4,
        "norms": [1.0, 1.0, 1.0, 0.0],
    }
    best = recommend(
        layers=[0, 3, 6, 9], separated=[1.0, 0.8, 0.9, 1.0], stable=[1.0, 0.9, 0.5, 1.0], **whole
    )
    assert best["layer"] == 3
    assert best["score"] == pytest.approx(0.6 * 0.9)
    best = recommend(layers=[0, 1, 8, 9], separated=[0.4, 0.9, 1.0, 1.0], stable=[1.0] * 4, **whole)
    assert best["layer"] == 8
    assert "none being in the middle" in best["basis"]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_noise_is_not_recommended_whatever_its_seed(paired: bool, seed: int) -> None:
    """8 texts a side, all layers alike as those of a model are: the best of them is still noise."""
    given = torch.Generator().manual_seed(seed)
    common, own = (torch.randn(16, layers, 24, generator=given) for layers in (1, 6))
    samples = 0.95 * common + 0.3 * own
    found = measure(
        mean_difference(samples[:8], samples[8:]), samples[:8], samples[8:], mean_difference,
        layers=range(6), num_layers=6, median_norms=[5.0] * 6, paired=paired, seed=seed,
    )  # fmt: skip
    assert found["recommended"] is None


@pytest.mark.parametrize("paired", [False, True])
def test_shuffled_rows_are_the_same_ones(paired: bool) -> None:
    sides = Sides(torch.arange(20.0).reshape(20, 1, 1), torch.arange(20.0, 40.0).reshape(20, 1, 1))
    mixed = relabelled(sides, 3, paired=paired)
    assert len(mixed.positive) == len(mixed.negative) == 20
    assert sorted(torch.cat(mixed).flatten().tolist()) == list(range(40))
    assert 0 < (mixed.positive >= 20).sum() < 20
    if paired:
        gaps = mixed.positive - mixed.negative
        assert set(gaps.flatten().tolist()) == {-20.0, 20.0}
    assert torch.equal(relabelled(sides, 3, paired=paired).positive, mixed.positive)
    assert not torch.equal(relabelled(sides, 4, paired=paired).positive, mixed.positive)


@pytest.mark.parametrize(("second", "layer"), [(0.99, 4), (0.96, 3)])
def test_of_layers_about_as_good_the_middle_one_is_recommended(second: float, layer: int) -> None:
    best = recommend(
        layers=[3, 4], norms=[1.0] * 2, num_layers=10, median_norms=[1.0] * 2,
        separated=[1.0, second], stable=[1.0] * 2,
    )  # fmt: skip
    assert best["layer"] == layer


def test_the_longest_step_is_what_a_norm_speaks_of() -> None:
    steps = torch.zeros(3, 2, 4)
    steps[1, 0, 0], steps[2, 0, 1], steps[0, 1, 2] = 3.0, 4.0, 5.0
    found = norm_measures(steps, [0, 7], [2.0, 10.0], "attn_out")
    assert found["norms"] == {"attn_out.0": 4.0, "attn_out.7": 5.0}
    assert found["relative_norms"] == {"attn_out.0": 2.0, "attn_out.7": 0.5}


@pytest.mark.parametrize(
    "changes", [{"layers": [4, 5]}, {"median_norms": [1.0]}, {"median_norms": [1.0, 0.0, 1.0]}]
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ActivationsInvalid):
        measured(*two_sides(0, 6), **changes)
