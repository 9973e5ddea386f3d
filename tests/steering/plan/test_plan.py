"""The plan: its JSON, its segments, and what it adds to a block's key in the prefix cache."""

import itertools
import json
from collections import Counter
from dataclasses import asdict, replace
from hashlib import blake2b
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steersman.steering.plan import PLAN_KEY, Dynamic, Plan, PlanInvalid, PlannedVector
from steersman.steering.plan.cache_key import CacheKeys
from steersman.steering.plan.plan import MAX_PLAN, as_float32
from steersman.steering.plan.positions import END
from steersman.vectors.tensors import HookPoint
from tests.reference.cache_key import written_out
from tests.support.steering.make import (
    SITES,
    STEPPED,
    STEPS,
    added_by,
    digest,
    plan_of,
    planned,
    planned_vectors,
    plans,
    rules,
)

Addition = tuple[str, int, str, int, float]
"""What is added to a token: HookPoint(site, layer, digest, step, coefficient)."""

prompts = st.integers(1, 12)
BLOCK = 4


def addition(plan: Plan, token: int, prompt_tokens: int) -> Counter[Addition]:
    """What the rules say is added at one token, with multiplicity: straight from the table."""
    found: Counter[Addition] = Counter()
    for vector in plan.vectors:
        added = added_by(vector, token, prompt_tokens)
        if added is not None and added[1] != 0:
            for site, layer in vector.terms:
                found[site, layer, vector.digest, *added] += 1
    return found


@given(st.data(), prompts)
def test_json_round_trip(data: st.DataObject, prompt_tokens: int) -> None:
    plan = data.draw(plans(prompt_tokens))
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.of({PLAN_KEY: plan.to_json(), "other": 1}) == plan


def test_a_request_without_a_plan_has_none() -> None:
    assert Plan.of(None) is None
    assert Plan.of({}) is None
    assert Plan.of({"kv_transfer_params": {}}) is None


@given(st.data(), prompts)
def test_segments_cover_exactly_the_rules(data: st.DataObject, prompt_tokens: int) -> None:
    plan = data.draw(plans(prompt_tokens))
    segments = plan.segments(prompt_tokens)
    for before, after in itertools.pairwise(segments):
        assert before.stop <= after.start
    for token in range(prompt_tokens + 10):
        expected = tuple(
            (n, added[0], added[1])
            for n, vector in enumerate(plan.vectors)
            if (added := added_by(vector, token, prompt_tokens)) is not None
        )
        covering = [
            tuple(zip(s.active, s.steps, gains.tolist(), strict=True))
            for s in segments
            if s.start <= token < s.stop
            for gains in plan.gains(s, token, token + 1, prompt_tokens)
        ]
        assert covering == ([expected] if expected else [])


def test_a_layout_is_computed_once_for_each_length_and_few_are_kept() -> None:
    plan = Plan((planned(1), planned(2, positions="prompt")))
    assert plan.layout(7) is plan.layout(7)
    assert plan.layout(8) is not plan.layout(7)
    for tokens in range(1, 100):
        assert plan.layout(tokens).spans == ((tokens - 1, END), (0, tokens))
    assert len(plan._layouts) <= 8


def test_rows_are_one_per_vector_site_and_layer_whatever_the_coefficient() -> None:
    plan = plan_of(planned(1, 0.5, (2, 3)), planned(1, -7.0, (3, 4), "all"), planned(2, 1.0, (2,)))
    assert plan.bank_keys == {
        (digest(1), "resid_post", 2, -1),
        (digest(1), "resid_post", 3, -1),
        (digest(1), "resid_post", 4, -1),
        (digest(2), "resid_post", 2, -1),
    }


@given(st.data(), prompts)
def test_no_key_before_the_first_steered_token(data: st.DataObject, prompt_tokens: int) -> None:
    plan = data.draw(plans(prompt_tokens))
    first = next((t for t in range(40) if addition(plan, t, prompt_tokens)), None)
    for start in range(0, 24, BLOCK):
        key = plan.cache_key(start, start + BLOCK, prompt_tokens)
        if first is None or start + BLOCK <= first:
            assert key is None


coarse = st.sampled_from([0.0, -0.0, 1.0, 2.0])


@given(st.data(), prompts)
def test_key_is_none_exactly_for_unsteered_blocks(data: st.DataObject, prompt_tokens: int) -> None:
    plan = data.draw(plans(prompt_tokens, coarse))
    for start in range(0, 24, BLOCK):
        steered = any(addition(plan, t, prompt_tokens) for t in range(start, start + BLOCK))
        assert (plan.cache_key(start, start + BLOCK, prompt_tokens) is not None) == steered


@given(st.data(), prompts, prompts)
def test_keys_are_equal_exactly_where_the_effect_is(
    data: st.DataObject, prompt_a: int, prompt_b: int
) -> None:
    a, b = data.draw(plans(prompt_a, coarse)), data.draw(plans(prompt_b, coarse))
    for start in range(0, 24, BLOCK):
        tokens = range(start, start + BLOCK)
        same_effect = all(addition(a, t, prompt_a) == addition(b, t, prompt_b) for t in tokens)
        same_key = a.cache_key(start, start + BLOCK, prompt_a) == b.cache_key(
            start, start + BLOCK, prompt_b
        )
        assert same_key == same_effect


few = st.sampled_from([0.0, -0.0, 1.0, 2.0])


@st.composite
def similar(draw: st.DrawFn, prompt_tokens: int) -> Plan:
    """Plans of which two often have the same effect: few vectors, terms and coefficients, each of
    them named several times, and schedules longer than a block."""
    vectors = []
    for _ in range(draw(st.integers(1, 4))):
        n, steps = draw(st.sampled_from([(1, 1), (2, 1), (STEPPED, STEPS)]))
        layers = draw(st.sets(st.integers(0, 2), min_size=1))
        vectors.append(
            replace(
                planned(n, draw(few), tuple(layers), draw(rules(prompt_tokens))),
                schedule=tuple(draw(st.lists(few, max_size=9))),
                steps=steps,
                hold=draw(st.booleans()),
            )
        )
    return plan_of(*vectors)


@settings(max_examples=1000)
@given(st.data(), prompts, prompts, st.integers(0, 8), st.integers(1, 9))
def test_keys_are_equal_exactly_where_all_that_is_added_written_out_is(
    data: st.DataObject, prompt_a: int, prompt_b: int, start: int, length: int
) -> None:
    a, b = data.draw(similar(prompt_a)), data.draw(similar(prompt_b))
    keys_a, keys_b = CacheKeys(a, prompt_a), CacheKeys(b, prompt_b)
    blocks = [(first, first + length) for first in range(start, 24, length)]
    long_a = [
        written_out(a.vectors, *block, added=lambda v, t: added_by(v, t, prompt_a))
        for block in blocks
    ]
    long_b = [
        written_out(b.vectors, *block, added=lambda v, t: added_by(v, t, prompt_b))
        for block in blocks
    ]
    short_a = [keys_a.of(*block) for block in blocks]
    short_b = [keys_b.of(*block) for block in blocks]
    both = list(zip([*long_a, *long_b], [*short_a, *short_b], strict=True))
    for long_one, short_one in both:
        for long_other, short_other in both:
            assert (long_one == long_other) == (short_one == short_other)
    assert all((long is None) == (short is None) for long, short in both)
    assert [keys_a.of(*block) for block in reversed(blocks)] == short_a[::-1]


@pytest.mark.parametrize("schedule", [0, 4096])
def test_a_key_is_short_however_much_is_added(schedule: int) -> None:
    """vLLM hashes it with the block, and publishes it in its events."""
    terms = tuple(HookPoint(site, layer) for site in SITES for layer in range(80))
    vectors = [
        PlannedVector(digest(n), 1.0, terms, (n, 9000), tuple(map(float, range(n, n + schedule))))
        for n in range(8)
    ]
    keys = CacheKeys(plan_of(*vectors), 9001)
    for start in range(0, 9000, 128):
        assert len(keys.of(start, start + 128) or "") <= 48


def test_a_block_costs_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the terms, the blocks before, nor the rest of the schedule; counted, not timed."""
    hashed = Counter[str]()
    terms = tuple(HookPoint(site, layer) for site in SITES for layer in range(80))

    def counting(data: bytes, digest_size: int) -> Any:
        hashed["calls"] += 1
        hashed["bytes"] += len(data)
        return blake2b(data, digest_size=digest_size)

    monkeypatch.setattr("steersman.steering.plan.cache_key.blake2b", counting)
    rng = Random(0)
    schedule = tuple(rng.random() for _ in range(4096))
    moving = [PlannedVector(digest(n), 1.0, terms, "all", schedule, hold=True) for n in range(8)]
    still = [PlannedVector(digest(n), 1.0, terms, "all") for n in range(8)]
    for vectors, calls, most in ((moving, 16 + 1, 8 * 32 * 16 + 2048), (still, 0, 0)):
        keys = CacheKeys(plan_of(*vectors), 32_000)
        keys.of(0, 16)  # The vectors are named once.
        for start in range(16, 4080, 16):
            hashed.clear()
            keys.of(start, start + 16)
            assert hashed["calls"] <= calls
            assert hashed["bytes"] <= most
    keys.of(4080, 4112)
    hashed.clear()
    for start in range(4112, 32_000, 16):
        keys.of(start, start + 16)
    assert not hashed


def test_one_plan_is_read_once_for_all_prompts_of_a_call() -> None:
    text = plan_of(planned(), receipt="of one call").to_json()
    assert Plan.of({PLAN_KEY: text}) is Plan.of({PLAN_KEY: "".join(list(text))})


@given(st.data(), prompts)
def test_order_and_receipt_are_not_in_the_key(data: st.DataObject, prompt_tokens: int) -> None:
    plan = data.draw(plans(prompt_tokens))
    other = Plan(tuple(data.draw(st.permutations(plan.vectors))), receipt="another")
    for start in range(0, 24, BLOCK):
        stop = start + BLOCK
        assert plan.cache_key(start, stop, prompt_tokens) == other.cache_key(
            start, stop, prompt_tokens
        )


@given(st.data(), prompts)
def test_any_difference_in_the_vector_is_a_difference_in_the_key(
    data: st.DataObject, prompt_tokens: int
) -> None:
    vector = data.draw(planned_vectors(prompt_tokens, st.floats(0.5, 9, width=32)))
    vector = replace(vector, positions="all", schedule=(), steps=1)
    changed = data.draw(
        st.sampled_from(
            [
                replace(vector, digest=digest(99)),
                replace(vector, coefficient=as_float32(vector.coefficient * 1.000001)),
                replace(vector, coefficient=-vector.coefficient),
                replace(vector, terms=(*vector.terms, HookPoint("resid_post", 99))),
                replace(vector, terms=tuple(HookPoint(s, layer + 10) for s, layer in vector.terms)),
                replace(vector, schedule=(as_float32(vector.coefficient * 2),), hold=True),
            ]
        )
    )
    assume(changed != vector)
    for start in range(0, 24, BLOCK):
        assert plan_of(vector).cache_key(start, start + BLOCK, prompt_tokens) != plan_of(
            changed
        ).cache_key(start, start + BLOCK, prompt_tokens)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            (planned(positions="all"),),
            (planned(positions="prompt"), planned(positions="after_prompt")),
        ),
        (
            (planned(positions="all"),),
            (planned(positions="all"), planned(2, 0.0, positions="prompt")),
        ),
        ((planned(positions=(0, 6)),), (planned(positions="prompt"),)),
        ((planned(positions=(-1, 30)),), (planned(positions="generation"),)),
        (
            (replace(planned(positions="all"), schedule=(0.5, 1.0), hold=True),),
            (planned(coefficient=0.5, positions=(0, 1)), planned(positions=(1, 99))),
        ),
        (
            (replace(planned(positions="all"), schedule=(1.0, 1.0, 1.0)),),
            (planned(positions=(0, 3)),),
        ),
        (
            (planned(layers=(1, 3), positions="all"),),
            (planned(layers=(1,), positions="all"), planned(layers=(3,), positions="all")),
        ),
    ],
)  # fmt: skip
def test_different_words_for_the_same_effect_share_blocks(
    one: tuple[PlannedVector, ...], other: tuple[PlannedVector, ...]
) -> None:
    for start in range(0, 16, BLOCK):
        stop = start + BLOCK
        assert plan_of(*one).cache_key(start, stop, 6) == plan_of(*other).cache_key(start, stop, 6)


GOOD_TEXT = plan_of(planned(), receipt="r").to_json()
GOOD = json.loads(GOOD_TEXT)


DYNAMIC = asdict(Dynamic(2.0, 0.95, True))


def spoiled(**changes: object) -> str:
    return json.dumps({"vectors": [GOOD["vectors"][0] | changes], "receipt": "r"})


@pytest.mark.parametrize(
    "text",
    [
        None, 7, b"{}", {"vectors": []}, "", "[]", "{}", "null", "NaN", "{", '{"vectors": 3}',
        '{"vectors": [3]}', '{"vectors": [null]}',
        json.dumps({"vectors": GOOD["vectors"], "receipt": 3}),
        json.dumps({"vectors": GOOD["vectors"], "receipt": "x" * 65}),
        spoiled(digest="sha256:" + "g" * 64), spoiled(digest="sha256:" + "a" * 63),
        spoiled(digest="../../etc/passwd"), spoiled(digest=None), spoiled(digest=["a"]),
        spoiled(coefficient="1"), spoiled(coefficient=True), spoiled(coefficient=None),
        spoiled(terms=None), spoiled(terms=[["resid_post"]]), spoiled(terms=[["resid_post", "2"]]),
        spoiled(terms=[["resid_post", True]]), spoiled(terms=[[2, "resid_post"]]),
        spoiled(terms=[["resid_post", 1.0]]), spoiled(terms=[["resid_post", 1, 2]]),
        spoiled(steps=0), spoiled(steps=True), spoiled(steps="2"), spoiled(hold=1),
        spoiled(schedule=[True]), spoiled(schedule=["1"]), spoiled(schedule=3),
        spoiled(schedule="AAAA"), spoiled(schedule="AAA"), spoiled(schedule="AA AA?=="),
        GOOD_TEXT + " " * MAX_PLAN,
        json.dumps({"vectors": GOOD["vectors"], "dynamic": 3}),
        json.dumps({"vectors": GOOD["vectors"], "dynamic": {"start": 1}}),
        *(json.dumps({"vectors": GOOD["vectors"], "dynamic": DYNAMIC | wrong}) for wrong in (
            {"start": -1}, {"start": "1"}, {"start": True}, {"start": float("inf")},
            {"top_p": 0}, {"top_p": 1.5}, {"top_p": None}, {"mean": 1},
        )),
        spoiled(positions="never"), spoiled(positions=[1]), spoiled(positions=None),
        "[" * 100_000,
    ],
)  # fmt: skip
def test_what_to_json_would_not_write_is_refused(text: object) -> None:
    with pytest.raises(PlanInvalid):
        Plan.from_json(text)


@pytest.mark.parametrize("missing", ["digest", "coefficient", "terms", "positions"])
def test_a_missing_field_is_refused(missing: str) -> None:
    vector = {key: value for key, value in GOOD["vectors"][0].items() if key != missing}
    with pytest.raises(PlanInvalid, match=missing):
        Plan.from_json(json.dumps({"vectors": [vector]}))


def test_a_coefficient_is_what_float32_makes_of_it() -> None:
    plan = Plan.from_json(spoiled(coefficient=0.1))
    assert plan.vectors[0].coefficient == as_float32(0.1) != 0.1
    assert Plan.from_json(spoiled(coefficient=1e300)).vectors[0].coefficient == float("inf")
    with pytest.raises(PlanInvalid, match="coefficient"):
        Plan.from_json(spoiled(coefficient=10**400))
    assert Plan.from_json(spoiled(coefficient=-1e300)).vectors[0].coefficient == float("-inf")


@given(st.data(), st.integers(1, 40), st.integers(0, 60), st.integers(0, 60))
def test_tokens_of_a_stretch_are_those_that_the_segments_say(
    data: st.DataObject, prompt_tokens: int, start: int, stop: int
) -> None:
    plan = data.draw(plans(prompt_tokens))
    assert plan.steered_within(start, stop, prompt_tokens) == tuple(
        sum(
            1
            for token in range(start, stop)
            for s in plan.segments(prompt_tokens)
            if s.start <= token < s.stop and n in s.active
        )
        for n in range(len(plan.vectors))
    )


def test_tokens_at_a_coefficient_of_0_are_counted() -> None:
    """As docs/request.md says: a token counts that lies where the vector steers."""
    schedule = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    plan = plan_of(replace(planned(), schedule=schedule))
    assert plan.steered_within(0, 40, 10) == (9,)


@given(st.data(), st.integers(1, 12), st.floats(0, 9), st.floats(0.01, 1), st.booleans())
def test_a_dynamic_plan(
    data: st.DataObject, prompt_tokens: int, start: float, top_p: float, mean: bool
) -> None:
    vectors = data.draw(plans(prompt_tokens)).vectors
    plan = Plan(vectors, "r", Dynamic(start, top_p, mean))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.varies
    assert plan.alone(0) is None
    for n, vector in enumerate(vectors, start=1):
        assert plan.alone(n) == Plan((replace(vector, coefficient=as_float32(start)),))
