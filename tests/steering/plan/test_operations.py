"""Plans of operations that read the stream: on the wire, in cache keys, within limits."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan import Plan, PlanInvalid, PlannedVector
from steersman.steering.plan.limits import check_added
from steersman.steering.plan.plan import EVERY_STEP
from steersman.vectors.operation import Operation
from tests.support.steering.make import digest, limits, plan_of, planned, planned_vectors

PROMPT = 10
ROWS = {"project": 3, "feature": 4, "transport": 4, "rotate": 2}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "project": [{}],
    "clamp": [{"min": -1.0}, {"max": 2.0}, {"min": -1.0, "max": 2.0}],
    "feature": [{"value": 2.0}, {"multiply": 0.5}],
    "transport": [{}],
    "rotate": [{"angle": 30.0}, {"angle": 30.0, "adaptive": True}],
    "replace": [{}],
}
EACH = [Operation(name, **given) for name, all_of in SETTINGS.items() for given in all_of]


def use(operation: Operation, **changes: Any) -> PlannedVector:
    vector = planned(1, 0.5, (2, 4), (0, PROMPT))
    rows = ROWS.get(operation.name, 1)
    given: dict[str, Any] = {"operation": operation, "rows": rows, **changes}
    return replace(vector, **given)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    vectors = draw(st.lists(planned_vectors(PROMPT), min_size=1, max_size=3))
    made = []
    for vector in vectors:
        operation = draw(st.sampled_from([Operation(), *EACH]))
        if operation.adds:
            made.append(vector)
            continue
        units = draw(st.booleans()) and operation.name == "clamp"
        made.append(
            replace(
                vector,
                steps=1,
                operation=operation,
                rows=ROWS.get(operation.name, 1),
                units=tuple(float(n) for n in range(len(vector.terms))) if units else (),
            )
        )
    return Plan(tuple(made), keep_norm=draw(st.booleans()))


@given(plan=plans())
def test_a_plan_travels_whole(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


def test_what_a_plan_that_adds_says_on_the_wire_and_in_keys_is_as_before() -> None:
    """Engines of two versions share caches of keys and values."""
    plan = plan_of(
        planned(1, 0.5, (2, 4)),
        replace(planned(2, -1.0, (2,), "all"), schedule=(1.0, 0.25)),
        planned(1, 0.5, (3,)),
    )
    assert [plan.cache_key(n, n + 4, PROMPT) for n in (0, 8, 12)] == KEYS
    assert "operation" not in plan.to_json()
    assert "keep_norm" not in plan.to_json()


KEYS = [
    "87c7c12c2149f35734d2c14d09f13c1a",
    "9:12:45ad9c5ad2d63ce9bbec9d2a2687c802",
    "12:16:45ad9c5ad2d63ce9bbec9d2a2687c802",
]


def different() -> list[Plan]:
    """Plans of which no two have the same effect on the tokens of the prompt."""
    found = [Plan((use(operation),)) for operation in EACH]
    clamp = use(Operation("clamp", min=-1.0))
    found += [
        Plan((use(Operation()),)),
        Plan((use(Operation()),), keep_norm=True),
        Plan((use(Operation("project")),), keep_norm=True),
        Plan((use(Operation("project"), coefficient=0.25),)),
        Plan((use(Operation("project"), digest=digest(2)),)),
        Plan((use(Operation("project")), use(Operation("project")))),
        Plan((use(Operation("project")), use(Operation()))),
        Plan((replace(clamp, units=(2.0, 3.0)),)),
        Plan((replace(clamp, units=(2.0, 4.0)),)),
    ]
    return found


def test_cache_keys_name_the_whole_effect() -> None:
    for one, other in combinations(different(), 2):
        assert one.cache_key(0, 8, PROMPT) != other.cache_key(0, 8, PROMPT), (one, other)


def test_the_same_effect_in_other_words_has_one_key() -> None:
    project = use(Operation("project"))
    split = [replace(project, terms=(term,)) for term in project.terms]
    for keep_norm in (False, True):
        whole = Plan((project,), keep_norm=keep_norm)
        for parts in (split, split[::-1]):
            assert Plan(tuple(parts), keep_norm=keep_norm).cache_key(0, 8, PROMPT) == (
                whole.cache_key(0, 8, PROMPT)
            )


def test_a_coefficient_of_nothing_is_in_no_key() -> None:
    plan = Plan((use(Operation("project"), coefficient=0.0),), keep_norm=True)
    assert plan.cache_key(0, 8, PROMPT) is None


def test_rows_of_an_operation() -> None:
    plan = Plan((use(Operation("transport")), use(Operation("clamp", min=1.0), digest=digest(2))))
    assert {key[3] for key in plan.bank_keys if key[0] == digest(1)} == {0, 1, 2, 3}
    assert {key[3] for key in plan.bank_keys if key[0] == digest(2)} == {EVERY_STEP}
    assert plan.bank_rows == 2 * 4 + 2 == len(plan.bank_keys)


def refused(plan: Plan, **changes: object) -> tuple[str, str]:
    with pytest.raises(PlanInvalid) as caught:
        limits(**changes).check(plan, PROMPT)
    return caught.value.param, caught.value.code


@pytest.mark.parametrize("operation", EACH)
def test_a_sound_plan_passes(operation: Operation) -> None:
    limits().check(Plan((use(operation),), keep_norm=True), PROMPT)


def test_plans_that_cannot_be_carried_out() -> None:
    """Whoever wrote them: workers check every plan."""
    where = "steering.vectors[0]"
    assert refused(Plan((use(Operation("clamp")),)))[0] == f"{where}.min"
    assert refused(Plan((use(Operation("rotate")),)))[0] == f"{where}.angle"
    assert refused(Plan((use(Operation("feature", value=1.0), rows=3),)))[0] == where
    assert refused(Plan((use(Operation("transport"), rows=2),)))[0] == where
    replaced = use(Operation("replace"), positions="all")
    assert refused(Plan((replaced,)))[0] == f"{where}.positions"
    stepping = use(Operation("project"), steps=2)
    assert refused(Plan((stepping,)))[0] == f"{where}.operation"
    only = refused(Plan((use(Operation("project")),)), operations=("add", "clamp"))
    assert only == (f"{where}.operation", "operation_not_served")
    kept = refused(Plan((use(Operation()),), keep_norm=True), operations=("add",))
    assert kept == ("steering.keep_norm", "operation_not_served")


def test_columns_count_as_terms() -> None:
    """A basis of three directions takes three; a transport takes two."""
    three = use(Operation("project"))
    limits(max_terms=6).check(Plan((three, three)), PROMPT)
    assert refused(Plan((three, three)), max_terms=5) == ("steering.vectors", "too_many_terms")
    moved = Plan((use(Operation("transport")), three))
    assert refused(moved, max_terms=4) == ("steering.vectors", "too_many_terms")
    varying = Plan((replace(three, schedule=(0.5, 0.25)), use(Operation("transport"))))
    assert refused(varying, max_terms=4) == ("steering.vectors", "too_many_terms")


def test_beside_what_reads_the_stream_each_site_is_its_own() -> None:
    """An addition at `mlp_out` is made at `resid_post`, behind what reads it there; not so in a
    plan with something that reads."""
    add = planned(2, 1.0, (2,), site="mlp_out")
    project = replace(planned(1, 1.0, (2,)), operation=Operation("project"))
    aliased = {"aliases": ("mlp_out",)}
    limits(max_terms=1, **aliased).check(Plan((add, project)), PROMPT)
    assert refused(Plan((add, planned(1))), max_terms=1, **aliased)[1] == "too_many_terms"
    shared = {**aliased, "own_sites": ("resid_post", "attn_out")}
    limits(**shared).check(Plan((add,)), PROMPT)
    assert refused(Plan((project, add)), **shared) == ("steering.vectors[1]", "site_not_supported")


def test_only_what_is_put_into_the_stream_is_bounded() -> None:
    big = [1e30]
    for operation in EACH:
        plan = Plan((use(operation),))
        if operation.name in ("replace", "transport") or operation.value is not None:
            with pytest.raises(PlanInvalid):
                check_added(plan, big, 1e10)
        else:
            check_added(plan, big, 1e10)
