"""Perplexity and repetition: arithmetic on numbers that can be checked by hand."""

import math

import pytest

from steersman.client.sweep.ask import perplexity, repetition


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert perplexity([[-math.log(7)] * 5, [-math.log(7)]]) == pytest.approx(7)


def test_perplexity_is_over_tokens_not_over_answers() -> None:
    # Three tokens at probability 1/2 and one at 1/32: 2 ** ((3 * 1 + 5) / 4).
    assert perplexity([[math.log(1 / 2)] * 3, [math.log(1 / 32)]]) == pytest.approx(4)


def test_perplexity_of_nothing_and_of_the_impossible() -> None:
    assert math.isnan(perplexity([[], []]))
    assert perplexity([[-9999.0]]) == math.inf


def test_repetition_is_the_share_of_runs_that_came_before() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0
    # Runs: 121 212 121 212 121 212, of which two are new.
    assert repetition([1, 2] * 4) == pytest.approx(4 / 6)
    assert repetition([1, 2]) == 0
