"""Coefficients and vectors that change from token to token, by a schedule."""

from dataclasses import replace

from steersman.steering.plan import Plan, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import Shelf
from tests.reference.reference import ReferenceModel, Term
from tests.support.engine.engine import Ask, Engine, furthest

CLOSE = 1e-4
TOKENS = 8
STEPS = 4


def plans(shelf: Shelf) -> list[tuple[Plan, list[tuple[float, int]]]]:
    """Plans of one vector, and for each token from the last of the prompt on its coefficient and
    step (coefficient 0: not steered)."""
    numbers = tuple(map(as_float32, (0.5, -0.3, 0.2)))
    scheduled = replace(shelf.planned(1, 0.5, (10, 14)), schedule=numbers)
    terms = (HookPoint("resid_post", 12),)
    stepped = PlannedVector(
        shelf.stepped(2, STEPS).digest, as_float32(0.4), terms, "generation", steps=STEPS
    )
    ended = [(0.0, 0)] * TOKENS
    both = [(0.5, 0), (-0.3, 1), (0.2, 2)]
    return [
        (Plan((scheduled,)), [*((c, 0) for c in numbers), *ended]),
        (Plan((replace(scheduled, hold=True),)), [*((c, 0) for c in numbers), *[(0.2, 0)] * 9]),
        (Plan((stepped,)), [*((0.4, n) for n in range(STEPS)), *ended]),
        (
            Plan((replace(stepped, hold=True),)),
            [*((0.4, n) for n in range(STEPS)), *[(0.4, STEPS - 1)] * TOKENS],
        ),
        (Plan((replace(stepped, schedule=numbers),)), [*both, *ended]),
    ]


def test_equal_the_reference_however_they_are_batched(
    engine: Engine, cramped: Engine, reference: ReferenceModel, shelf: Shelf, text_ids: list[int]
) -> None:
    """All in one batch; and in chunks, with preemptions, where one is computed a second time."""
    asks, wanted = [], []
    for n, (plan, course) in enumerate(plans(shelf)):
        asks.append(Ask(tuple(text_ids[9 * n : 9 * n + 20 + 3 * n]), plan, TOKENS))
        wanted.append(course)
    engine.forget()
    found = engine.noted(*asks)
    for ask, course, (answer, (note,)) in zip(asks, wanted, found, strict=True):
        assert ask.plan is not None
        (vector,) = ask.plan.vectors
        tensors = (shelf.stepped(2, STEPS) if vector.steps > 1 else shelf.vector(1)).tensors
        last = len(ask.prompt) - 1
        terms = [
            Term(site, layer, c, tensor if tensor.ndim == 1 else tensor[step], at)
            for n, (c, step) in enumerate(course)
            for site, layer in vector.terms
            for tensor in [tensors[HookPoint(site, layer)]]
            for at in [{"start": last + n, "stop": last + n + 1}]
        ]
        text = [*ask.prompt, *answer.tokens]
        expected = reference.steered_logprobs(text, len(ask.prompt), terms)
        plain = reference.steered_logprobs(text, len(ask.prompt))
        for n, likeliest in enumerate(answer.logprobs):
            for token, logprob in likeliest.items():
                assert abs(logprob - float(expected[last + n, token])) <= CLOSE
        assert float((expected - plain)[last:-1].abs().max()) > 1000 * CLOSE
        assert note.steered_tokens == (sum(c != 0 for c, _ in course[:TOKENS]),)
    before = cramped.metric("vllm:num_preemptions")
    long = [replace(ask, tokens=30) for ask in asks]
    crowded = cramped.ask(*long)
    assert cramped.metric("vllm:num_preemptions") > before
    engine.forget()
    for answer, other in zip(engine.ask(*long), crowded, strict=True):
        assert answer.tokens == other.tokens
        assert furthest(answer.logprobs, other.logprobs) <= CLOSE


def test_prefix_cache_keys_tell_schedules_apart(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """A replayed answer's blocks serve the same schedule alone, and only where it acts the same."""
    vector = replace(shelf.planned(1, 0.5, (10,), "all"), schedule=(0.5,) * 33, hold=False)
    asks = [
        Ask(tuple(text_ids[:80]), Plan((one,)), 4)
        for one in (vector, replace(vector, schedule=(*(0.5,) * 32, 0.4)))
    ]
    engine.forget()
    fresh = []
    for ask in asks:
        engine.forget()
        fresh += engine.ask(ask)
    engine.forget()
    found = [engine.ask(ask)[0] for ask in (*asks, asks[0])]
    assert [answer.cached for answer in found] == [0, 32, 64]
    for answer, expected in zip(found, [*fresh, fresh[0]], strict=True):
        assert furthest(answer.logprobs, expected.logprobs) <= CLOSE
