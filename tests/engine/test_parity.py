"""Invariant 1: steering is exact, against an independent Hugging Face forward with hooks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steersman.steering.plan import Plan, PlannedVector, PositionRule
from steersman.steering.plan.positions import said
from tests.engine.conftest import LAYERS, SITES, Shelf
from tests.reference.reference import ReferenceModel, Term
from tests.support.engine.engine import Ask, Engine
from tests.support.steering.make import rules

TOLERANCE = 1e-4
MAX_DOSE = 0.5
NEW_TOKENS = 3


@dataclass(frozen=True)
class Wanted:
    seed: int
    site: str
    layers: tuple[int, ...]
    share: float
    """Part of the dose that is left at its layers."""
    positions: PositionRule


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, list[Wanted]]:
    """(where the prompt starts in the text, how long it is, what is added)."""
    length = draw(st.one_of(st.integers(1, 24), st.integers(1, 200)))
    layers = st.sets(st.integers(0, LAYERS - 1), min_size=1, max_size=4)
    wanted = st.builds(
        Wanted,
        st.integers(0, 3),
        st.sampled_from(SITES),
        layers.map(lambda found: tuple(sorted(found))),
        st.floats(-1, 1),
        rules(length),
    )
    vectors = draw(st.lists(wanted, min_size=1, max_size=3))
    if draw(st.booleans()):
        # Often enough, several vectors meet at one layer.
        vectors = [
            Wanted(v.seed, vectors[0].site, vectors[0].layers, v.share, v.positions)
            for v in vectors
        ]
    return draw(st.integers(0, 60)), length, vectors


@pytest.fixture(scope="module")
def double(model: Path) -> ReferenceModel:
    """In double precision: what is within the tolerance is the engine's own rounding."""
    return ReferenceModel(model, torch.float64)


@pytest.fixture(scope="module")
def worst() -> Iterator[Callable[[float], None]]:
    seen: list[float] = []
    yield seen.append
    print(f"\nparity: worst difference {max(seen, default=0):.2e} over {len(seen)} cases")


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def test_log_probabilities_equal_the_reference(
    case: tuple[int, int, list[Wanted]],
    engine: Engine,
    double: ReferenceModel,
    shelf: Shelf,
    text_ids: list[int],
    worst: Callable[[float], None],
) -> None:
    start, length, wanted = case
    prompt = tuple(text_ids[start : start + length])
    # Vectors may meet at a layer: together they stay in bounds.
    dose = MAX_DOSE / len(wanted)
    planned: list[PlannedVector] = []
    terms: list[Term] = []
    for w in wanted:
        vector = shelf.planned(w.seed, dose * w.share, w.layers, w.positions, w.site)
        planned.append(vector)
        for key in vector.terms:
            tensor = shelf.vector(w.seed).tensors[key]
            terms.append(Term(*key, vector.coefficient, tensor, said(w.positions)))

    (answer,) = engine.ask(Ask(prompt, Plan(tuple(planned)), NEW_TOKENS, prompt_logprobs=True))
    tokens = [*prompt, *answer.tokens]
    expected = double.steered_logprobs(tokens, length, terms)
    assert len(answer.tokens) == len(answer.logprobs) == NEW_TOKENS
    assert len(answer.prompt_logprobs) == length - 1
    difference = max(
        abs(logprob - float(expected[position, token]))
        for position, likeliest in enumerate([*answer.prompt_logprobs, *answer.logprobs])
        for token, logprob in likeliest.items()
    )
    worst(difference)
    assert difference <= TOLERANCE
    for position, token in enumerate(answer.tokens, start=length - 1):
        assert float(expected[position].max() - expected[position, token]) <= TOLERANCE


def test_a_dose_of_half_the_stream_is_no_small_thing(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """What parity at these doses proves: an engine that left the addition out would be far off."""
    prompt = tuple(text_ids[:40])
    plain, steered = engine.ask(
        Ask(prompt, tokens=1, prompt_logprobs=True),
        Ask(prompt, shelf.plan(1, 0.5, (12,), "all"), 1, prompt_logprobs=True),
    )
    moved = [
        max(abs(a[token] - b[token]) for token in a.keys() & b.keys())
        for a, b in zip(plain.prompt_logprobs, steered.prompt_logprobs, strict=True)
        if a.keys() & b.keys()
    ]
    assert sorted(moved)[len(moved) // 2] > 1000 * TOLERANCE
