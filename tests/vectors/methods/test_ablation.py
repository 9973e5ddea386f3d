"""What candidates of directional ablation are made and judged by."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.vectors.methods import ActivationsInvalid
from steersman.vectors.methods.ablation import (
    MOST_KL,
    MOST_TOKENS,
    Trial,
    behaviour_tokens,
    best_trial,
    divergence,
    log_odds,
    separation_of,
    unit_difference,
)
from tests.reference.methods import ablation
from tests.support.vectors.activations import assert_same_direction, two_sides

VOCAB = 60


def logprobs(seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(spread * torch.randn(VOCAB, generator=generator).double(), dim=0)


def of(found: torch.Tensor, tokens: list[int]) -> dict[int, float]:
    return {token: float(found[token]) for token in tokens}


def test_the_direction_is_the_mean_difference_at_length_one() -> None:
    plus, minus = two_sides(2, 9, 7)
    found = unit_difference(plus, minus)
    assert_same_direction(found, plus.double().mean(0) - minus.double().mean(0))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))
    with pytest.raises(ActivationsInvalid):
        unit_difference(plus, plus)


def test_separation_is_in_standard_deviations() -> None:
    up = torch.tensor([[3.0, 9], [5.0, -9]])
    down = torch.tensor([[-1.0, 4], [1.0, 4]])
    assert separation_of(torch.tensor([1.0, 0]), up, down) == pytest.approx(4 / math.sqrt(2))
    assert separation_of(torch.tensor([1.0, 0]), down, up) < 0
    assert separation_of(torch.tensor([0.0, 1]), down, down + 1) == -math.inf


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), top=st.integers(1, VOCAB - 1))
def test_the_divergence_is_that_of_the_lumped_tokens_and_a_lower_bound(seed: int, top: int) -> None:
    plain, changed = logprobs(seed), logprobs(seed + 1)
    kept = plain.topk(top).indices.tolist()
    found = divergence(of(plain, kept), of(changed, kept))
    assert found == pytest.approx(ablation.lumped(plain, changed, top), rel=1e-6, abs=1e-9)
    assert found <= ablation.divergence(plain, changed) + 1e-4
    assert divergence(of(plain, kept), of(plain, kept)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), tokens=st.sets(st.integers(0, VOCAB - 1), min_size=1))
def test_log_odds(seed: int, tokens: set[int]) -> None:
    found = logprobs(seed)
    expected = ablation.odds(found, sorted(tokens))
    assert log_odds(of(found, sorted(tokens)), sorted(tokens)) == pytest.approx(expected, abs=1e-3)


def test_the_behaviours_tokens_are_those_that_one_side_has_more_of() -> None:
    refuses = [{1: math.log(0.7), 2: math.log(0.2)}, {1: math.log(0.5), 3: math.log(0.3)}]
    answers = [{2: math.log(0.6), 3: math.log(0.1)}, {4: math.log(0.9)}]
    # 1: 0.6 more; 3: 0.15 - 0.05; 2 and 4: less.
    assert behaviour_tokens(refuses, answers) == [1, 3]
    assert behaviour_tokens(answers, refuses) == [4, 2]
    assert behaviour_tokens(answers, answers) == []
    many = [{token: math.log(1 / 40) for token in range(40)}]
    assert (
        behaviour_tokens(many, answers)
        == [t for t in range(40) if t not in (2, 3, 4)][:MOST_TOKENS]
    )


def test_of_those_that_change_nothing_else_the_one_without_the_behaviour() -> None:
    def trial(bypass: float, kl: float) -> Trial:
        return Trial(-1, 3, 2.0, bypass, kl)

    sharp, mild, quiet = trial(-9, 2 * MOST_KL), trial(-4, MOST_KL), trial(-1, 0.01)
    assert best_trial([quiet, sharp, mild]) == (mild, True)
    assert best_trial([sharp, trial(-12, 1.0)]) == (sharp, False)
