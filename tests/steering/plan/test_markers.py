"""Markers: the rule in plans, where it is found, keys, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.steering.plan import Plan, PlanInvalid, check_rule, interval
from steersman.steering.plan.dynamic import Dynamic
from steersman.steering.plan.positions import END, is_explicit, said
from steersman.steering.plan.when.gates import MAX_GATES
from steersman.steering.plan.when.markers import MAX_MARKER, Marker, marker_of
from tests.reference.interventions import is_at
from tests.support.steering.make import limits, plan_of, planned

PROMPT = 9


@pytest.mark.parametrize("side", ["after", "until"])
def test_a_rule_has_one_form(side: str) -> None:
    for ids in ([7], [7, 0, 12], list(range(MAX_MARKER))):
        rule = check_rule({side: ids})
        assert marker_of(rule) == Marker(side, tuple(ids))
        assert check_rule(rule) == rule
        assert said(rule) == {side: ids}
        assert interval(rule, PROMPT) == (0, END)
        assert not is_explicit(rule)


@pytest.mark.parametrize(
    "wrong",
    [
        {"after": []},
        {"after": [-1]},
        {"after": [True]},
        {"after": [2**31]},
        {"after": [1.5]},
        {"after": "word"},
        {"after": 7},
        {"after": list(range(MAX_MARKER + 1))},
        {"after": [7], "until": [8]},
        {"behind": [7]},
        "after:",
        "after:x",
        "until:1,",
        "after:99999999999",
    ],
)
def test_what_is_not_a_marker(wrong: Any) -> None:
    with pytest.raises(PlanInvalid):
        check_rule(wrong)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=20),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
def test_the_first_place_counts(text: list[int], ids: list[int]) -> None:
    for side in ("after", "until"):
        marker = Marker(side, tuple(ids))
        lo, hi = marker.span(marker.found_in(text), len(text))
        for t in range(len(text)):
            assert (lo <= t < hi) == is_at(t, 1, {side: ids}, text), (text, ids, t)


def test_a_plan_with_markers() -> None:
    plan = plan_of(planned(1), planned(2, positions="after:5"))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.reads
    assert plan.conditional == (1,)


def test_keys_of_the_prefix_cache_name_the_marker() -> None:
    rules = ("all", "after:5", "until:5", "after:6", "after:5,6")
    keys = [plan_of(planned(1, positions=rule)).cache_key(0, 8, PROMPT) for rule in rules]
    assert len(set(keys)) == len(rules)
    assert None not in keys


@pytest.mark.parametrize(
    ("plan", "changes"),
    [
        (plan_of(planned(positions="after:5")), {"no_gates": "pipeline parallel"}),
        (plan_of(planned(positions="after:5")), {"operations": ("add",)}),
        (plan_of(replace(planned(positions="after:5"), schedule=(1.0, 2.0))), {}),
        (plan_of(replace(planned(positions="until:5"), steps=3)), {}),
        (Plan((planned(positions="until:5"),), dynamic=Dynamic(1.0, 0.9, True)), {}),
        (plan_of(*[planned(positions="after:5")] * (MAX_GATES + 1)), {"max_terms": 20}),
    ],
)
def test_where_no_marker_goes(plan: Plan, changes: dict[str, object]) -> None:
    with pytest.raises(PlanInvalid) as caught:
        limits(**changes).check(plan, PROMPT)
    assert caught.value.param == "steering.vectors[0].positions"
