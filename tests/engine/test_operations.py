"""Operations that read the stream: exact against Hugging Face, apart from neighbours, in caches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steersman.steering.plan import Plan, PositionRule
from steersman.vectors.operation import OPERATIONS
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import HIDDEN, LAYERS, SITES, Shelf
from tests.engine.test_capture import Wish, captured
from tests.reference.interventions import Intervened
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Answer, Ask, Engine, furthest
from tests.support.engine.operations import READING, SETTINGS, Operations
from tests.support.steering.make import rules

TOLERANCE = 1e-4
CLOSE = 5e-5
NEW_TOKENS = 3
EVERYWHERE = (*SITES, "resid_mid")
BLOCK = 32
PROMPT = 100


@pytest.fixture(scope="package")
def operations(shelf: Shelf) -> Operations:
    norms = {**shelf.norms, "resid_mid": shelf.norms["resid_post"]}
    return Operations(shelf.library, norms, HIDDEN)


@dataclass(frozen=True)
class Wanted:
    name: str
    settings: dict[str, Any]
    seed: int
    basis: bool
    sites: tuple[str, ...]
    layers: tuple[int, ...]
    coefficient: float
    positions: PositionRule

    @property
    def terms(self) -> tuple[HookPoint, ...]:
        return tuple(sorted(HookPoint(s, n) for s in self.sites for n in self.layers))


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, list[Wanted], bool]:
    """(where the prompt starts in the text, how long it is, what is done, whether norms stay)."""
    length = draw(st.one_of(st.integers(1, 24), st.integers(1, 200)))
    uses = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(OPERATIONS))
        positions = draw(rules(length))
        if name == "replace":
            first = draw(st.integers(0, length - 1))
            positions = (first, first + draw(st.integers(1, 3)))
        uses.append(
            Wanted(
                name,
                draw(st.sampled_from(SETTINGS[name])),
                draw(st.integers(0, 2)),
                name == "project" and draw(st.booleans()),
                tuple(
                    draw(st.sets(st.sampled_from((*SITES, "resid_mid")), min_size=1, max_size=2))
                ),
                tuple(draw(st.sets(st.integers(0, LAYERS - 1), min_size=1, max_size=3))),
                draw(st.floats(-0.3, 0.3) if name == "add" else st.floats(0, 1)),
                positions,
            )
        )
    if draw(st.booleans()):
        # Often enough, several meet at one layer.
        uses = [replace(use, sites=uses[0].sites, layers=uses[0].layers) for use in uses]
    return draw(st.integers(0, 60)), length, uses, draw(st.booleans())


@pytest.fixture(scope="module")
def worst() -> Iterator[Callable[[float], None]]:
    seen: list[float] = []
    yield seen.append
    print(f"\noperations: worst difference {max(seen, default=0):.2e} over {len(seen)} cases")


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def test_log_probabilities_equal_the_reference(
    case: tuple[int, int, list[Wanted], bool],
    engine: Engine,
    reference: ReferenceModel,
    operations: Operations,
    text_ids: list[int],
    worst: Callable[[float], None],
) -> None:
    start, length, uses, keep_norm = case
    prompt = tuple(text_ids[start : start + length])
    planned = tuple(
        operations.planned(
            u.name, u.seed, u.coefficient, u.terms, u.positions, u.settings, basis=u.basis
        )
        for u in uses
    )
    plan = Plan(planned, keep_norm=keep_norm)
    (answer,) = engine.ask(Ask(prompt, plan, NEW_TOKENS, prompt_logprobs=True))
    tokens = [*prompt, *answer.tokens]
    ones = [one for vector in planned for one in operations.interventions(vector)]
    expected = Intervened(reference).logprobs(tokens, length, ones, keep_norm=keep_norm)
    assert len(answer.prompt_logprobs) == length - 1
    difference = max(
        abs(logprob - float(expected[position, token]))
        for position, likeliest in enumerate([*answer.prompt_logprobs, *answer.logprobs])
        for token, logprob in likeliest.items()
    )
    worst(difference)
    assert difference <= TOLERANCE


@pytest.fixture(scope="module")
def prompt(text_ids: list[int]) -> tuple[int, ...]:
    return tuple(text_ids[:PROMPT])


def plan_of(
    operations: Operations,
    name: str,
    positions: PositionRule = "all",
    coefficient: float = 0.8,
    layers: tuple[int, ...] = (10, 14),
    **options: Any,
) -> Plan:
    if name == "replace" and isinstance(positions, str):
        positions = {"all": (3, 6), "generation": (PROMPT - 1, PROMPT + 2)}[positions]
    terms = tuple(HookPoint("resid_post", layer) for layer in layers)
    return Plan((operations.planned(name, 0, coefficient, terms, positions, **options),))


@pytest.mark.parametrize("name", READING)
def test_each_operation_is_no_small_thing(
    engine: Engine, operations: Operations, prompt: tuple[int, ...], name: str
) -> None:
    """What parity proves: an engine that left the operation out would be far off."""
    plain, steered = engine.ask(
        Ask(prompt, tokens=1, prompt_logprobs=True),
        Ask(prompt, plan_of(operations, name), 1, prompt_logprobs=True),
    )
    moved = furthest(plain.prompt_logprobs, steered.prompt_logprobs)
    assert moved > 100 * TOLERANCE


@pytest.mark.parametrize("name", READING)
def test_unsteered_neighbours_are_bit_identical(
    engine: Engine, operations: Operations, text_ids: list[int], name: str
) -> None:
    def batch(plan: Plan | None) -> list[Ask]:
        return [
            Ask(tuple(text_ids[n : n + size]), plan if n % 2 else None, 6, prompt_logprobs=True)
            for n, size in enumerate((3, 40, 17, 90, 12, 64))
        ]

    plan = plan_of(operations, name, layers=(0, 11, 29))
    without, among = engine.ask(*batch(None)), engine.ask(*batch(plan))
    assert [among[n] for n in (0, 2, 4)] == [without[n] for n in (0, 2, 4)]
    assert all(among[n] != without[n] for n in (1, 3, 5))


def test_neighbours_that_only_add_are_bit_identical(
    engine: Engine, operations: Operations, shelf: Shelf, prompt: tuple[int, ...]
) -> None:
    """A request whose terms add takes the same way beside one whose terms read."""
    adds, reads = shelf.plan(1, 0.5, (10, 14), "all"), plan_of(operations, "project")

    def batch(plan: Plan) -> list[Ask]:
        return [Ask(prompt, adds, 6, prompt_logprobs=True), Ask(prompt[5:], plan, 6)]

    assert engine.ask(*batch(adds))[0] == engine.ask(*batch(reads))[0]


def fresh(engine: Engine, prompt: tuple[int, ...], plan: Plan | None) -> Answer:
    engine.forget()
    (answer,) = engine.ask(Ask(prompt, plan))
    assert answer.cached == 0
    return answer


def assert_same(answer: Answer, other: Answer) -> None:
    assert answer.tokens == other.tokens
    assert furthest(answer.logprobs, other.logprobs) <= CLOSE


@pytest.mark.parametrize("name", READING)
def test_a_steered_answer_replayed(
    engine: Engine, operations: Operations, prompt: tuple[int, ...], name: str
) -> None:
    """Unsteered it finds the blocks before the first steered token, steered the same all of
    them."""
    engine.forget()
    plan = plan_of(operations, name, "generation")
    (steered,) = engine.ask(Ask(prompt, plan, 40))
    history = prompt + steered.tokens
    (replayed,) = engine.ask(Ask(history))
    assert replayed.cached == (PROMPT - 1) // BLOCK * BLOCK
    vector = plan.vectors[0]
    stop = len(history) if name != "replace" else PROMPT + 2
    same = Plan((replace(vector, positions=(PROMPT - 1, stop)),))
    (again,) = engine.ask(Ask(history, same))
    assert again.cached == (len(history) - 1) // BLOCK * BLOCK
    assert_same(replayed, fresh(engine, history, None))
    assert_same(again, fresh(engine, history, same))


@pytest.mark.parametrize("name", READING)
def test_steered_from_the_start_is_shared_with_nobody_else(
    engine: Engine, operations: Operations, prompt: tuple[int, ...], name: str
) -> None:
    plan = plan_of(operations, name)
    (vector,) = plan.vectors
    others: list[Plan | None] = [
        None,
        replace(plan, keep_norm=True),
        plan_of(operations, name, coefficient=0.800001),
        plan_of(operations, name, layers=(10,)),
        *(plan_of(operations, name, settings=other) for other in SETTINGS[name][1:]),
    ]
    if name in ("project", "clamp", "replace"):
        others.append(Plan((replace(vector, operation=type(vector.operation)(), units=()),)))
    for other in others:
        engine.forget()
        engine.ask(Ask(prompt, plan))
        (answer,) = engine.ask(Ask(prompt, other))
        assert answer.cached == 0
    (same,) = engine.ask(Ask(prompt, others[-1]))
    assert same.cached == (PROMPT - 1) // BLOCK * BLOCK


@pytest.mark.parametrize("name", READING)
def test_however_tokens_are_batched(
    engine: Engine,
    cramped: Engine,
    operations: Operations,
    text_ids: list[int],
    name: str,
) -> None:
    """Sixteen tokens a step, and long answers that crowd each other out of the cache."""
    plan = plan_of(operations, name, layers=(14,))
    asks = [Ask(tuple(text_ids[7 * n : 7 * n + 50]), plan, 40) for n in range(4)]
    engine.forget()
    before = cramped.metric("vllm:num_preemptions")
    expected = [engine.ask(ask)[0] for ask in asks]
    found = cramped.ask(*asks)
    assert cramped.metric("vllm:num_preemptions") > before
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert furthest(one.logprobs, other.logprobs) <= TOLERANCE


def test_a_schedule_goes_with_every_operation(
    engine: Engine, operations: Operations, reference: ReferenceModel, prompt: tuple[int, ...]
) -> None:
    """Each of its coefficients at the token that it is for."""
    for name in OPERATIONS:
        if name == "replace":
            continue
        schedule = (0.9, 0.2, 0.5)
        (vector,) = plan_of(operations, name, "generation").vectors
        plan = Plan((replace(vector, schedule=schedule),))
        (answer,) = engine.ask(Ask(prompt, plan, 5))
        ones = []
        for n, coefficient in enumerate(schedule):
            at = (PROMPT - 1 + n, PROMPT + n)
            one = replace(vector, coefficient=coefficient, positions=at)
            ones += operations.interventions(one)
        tokens = [*prompt, *answer.tokens]
        expected = Intervened(reference).logprobs(tokens, PROMPT, ones)
        for position, likeliest in enumerate(answer.logprobs, start=PROMPT - 1):
            for token, logprob in likeliest.items():
                assert abs(logprob - float(expected[position, token])) <= TOLERANCE, name


def test_nothing_of_a_projected_direction_is_left(
    engine: Engine, operations: Operations, prompt: tuple[int, ...]
) -> None:
    """Behind the layer, as a share of the engine's own stream there, at each token."""
    terms = (HookPoint("resid_post", 14),)
    vector = operations.vector("project", 0).tensors[terms[0]]
    u = (vector / vector.norm()).numpy()

    def share(plan: Plan | None) -> float:
        (found,) = captured(engine, Wish(prompt, 0, PROMPT, terms, each=True, plan=plan))
        assert found is not None
        stream = found.values[:, 0]
        return float((np.abs(stream @ u) / np.linalg.norm(stream, axis=-1)).max())

    project = operations.planned("project", 0, 1.0, terms, "all")
    assert share(Plan((project,))) <= TOLERANCE
    assert share(None) > 100 * TOLERANCE
