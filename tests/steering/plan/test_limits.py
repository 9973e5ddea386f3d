"""Limits: each is enforced, at its edge, and names the offending key."""

import json
import re
from dataclasses import replace

import pytest

from steersman.steering.plan import Plan, PlanInvalid, PlannedVector, check_rule
from steersman.vectors.tensors import HookPoint
from tests.support.steering.make import limits, plan_of, planned


def test_a_plan_within_all_limits_passes() -> None:
    vectors = [planned(n, 10_000.0, (0, 5)) for n in range(8)]
    limits(bank_rows=16).check(plan_of(*vectors), 9)


@pytest.mark.parametrize(
    ("vectors", "param", "code"),
    [
        ((), "steering.vectors", "invalid_steering"),
        ([planned(n, layers=(n % 6,)) for n in range(33)], "steering.vectors", "too_many_terms"),
        ([planned(n) for n in range(9)], "steering.vectors", "too_many_terms"),
        (
            [planned(), planned(2, float("nan"))],
            "steering.vectors[1].coefficient",
            "invalid_steering",
        ),
        ([planned(1, float("inf"))], "steering.vectors[0].coefficient", "invalid_steering"),
        ([planned(1, 1e30)], "steering.vectors[0].coefficient", "dose_over_limit"),
        ([planned(1, -10_001.0)], "steering.vectors[0].coefficient", "dose_over_limit"),
        ([planned(1, layers=())], "steering.vectors[0].layers", "invalid_steering"),
        ([planned(1, layers=(6,))], "steering.vectors[0].layers", "layer_out_of_range"),
        ([planned(1, layers=(-1,))], "steering.vectors[0].layers", "layer_out_of_range"),
        ([planned(1, site="resid_pre")], "steering.vectors[0]", "site_not_supported"),
    ],
)  # fmt: skip
def test_each_limit_names_its_key(vectors: list[PlannedVector], param: str, code: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        limits().check(plan_of(*vectors))
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_site_that_is_not_on_is_refused_with_the_option_that_has_it_on() -> None:
    with pytest.raises(PlanInvalid, match=r"sites are resid_post.*--sites attn_out"):
        limits(sites=("resid_post",)).check(plan_of(planned(site="attn_out")))


def test_terms_that_meet_are_counted_where_they_are_added() -> None:
    vectors = [planned(n, site=("resid_post", "mlp_out")[n % 2]) for n in range(6)]
    limits(max_terms=3).check(plan_of(*vectors))
    limits(max_terms=6, aliases=("mlp_out",)).check(plan_of(*vectors))
    with pytest.raises(PlanInvalid, match=r"6 vectors meet at resid_post.2 \(.* mlp_out\)"):
        limits(max_terms=5, aliases=("mlp_out",)).check(plan_of(*vectors))


def test_a_vector_with_a_schedule_at_both_sites_of_a_block_counts_twice() -> None:
    terms = (HookPoint("mlp_out", 2), HookPoint("resid_post", 2))
    plan = plan_of(replace(planned(1), terms=terms, schedule=(1.0, 2.0)), planned(2))
    limits(max_terms=2).check(plan)
    limits(max_terms=3, aliases=("mlp_out",)).check(plan)
    with pytest.raises(PlanInvalid, match="3 vectors"):
        limits(max_terms=2, aliases=("mlp_out",)).check(plan)


def test_rows_are_counted_once_however_often_they_are_named() -> None:
    plan = plan_of(planned(1, 1.0, (0, 1)), planned(1, 2.0, (0, 1), "prompt"))
    limits(bank_rows=2).check(plan)
    with pytest.raises(PlanInvalid, match="3 bank rows, the bank has 2"):
        limits(bank_rows=2).check(plan_of(*plan.vectors, planned(2)))


def test_segments_are_counted_with_the_prompt() -> None:
    plan = plan_of(*(planned(n, positions=(n, n + 3)) for n in range(3)))
    assert len(plan.segments(9)) == 5
    limits(max_segments=5).check(plan, 9)
    limits(max_segments=4).check(plan)
    with pytest.raises(PlanInvalid, match="5 stretches, at most 4"):
        limits(max_segments=4).check(plan, 9)


def test_positions_outside_the_prompt_are_refused_once_it_is_known() -> None:
    plan = plan_of(planned(positions=(20, 30)))
    limits().check(plan)
    with pytest.raises(PlanInvalid, match="outside the prompt of 9 tokens"):
        limits().check(plan, 9)


def scheduled(*lengths: int) -> Plan:
    return plan_of(
        *(replace(planned(n), schedule=(1.0,) * length) for n, length in enumerate(lengths))
    )


def test_schedules_are_counted_together() -> None:
    """CASES 4.4: each alone is within its limit."""
    limits(max_schedule_total=9).check(scheduled(4, 5), 9)
    with pytest.raises(PlanInvalid, match=r"10 coefficients together.*--max-schedule-total"):
        limits(max_schedule_total=9).check(scheduled(5, 5), 9)
    with pytest.raises(PlanInvalid, match="32768 coefficients together"):
        limits().check(scheduled(*(8 * [4096])), 9)


def test_terms_are_counted_for_each_step_and_stretch() -> None:
    """What a worker writes while others wait, however few tokens the request has."""
    steps = replace(planned(1, layers=(0, 1)), steps=5)
    plan = plan_of(steps, planned(2, layers=(0, 1, 2), positions="all"))
    terms = 3 + 5 * (2 + 3) + 3  # Before the steps, at each, and behind them.
    limits(max_plan_terms=terms).check(plan, 9)
    limits(max_plan_terms=terms - 1).check(plan)
    with pytest.raises(PlanInvalid, match=f"{terms} terms.*--max-plan-terms") as caught:
        limits(max_plan_terms=terms - 1).check(plan, 9)
    assert caught.value.code == "too_many_terms"


@pytest.mark.parametrize(
    ("vectors", "option", "settings"),
    [
        ([planned(n, layers=(n % 6,)) for n in range(33)], "--max-vectors", {}),
        ([planned(n) for n in range(9)], "--max-terms", {}),
        ([planned(1, 10_001.0)], "--max-coefficient", {}),
        ([planned(1), planned(2)], "--bank-rows", {"bank_rows": 1}),
        ([replace(planned(1), steps=5)], "--max-steps", {"max_steps": 4}),
        ([planned(n, positions=(n, n + 3)) for n in range(3)], "--max-segments",
         {"max_segments": 4}),
    ],
)  # fmt: skip
def test_a_limit_names_the_option_that_raises_it(
    vectors: list[PlannedVector], option: str, settings: dict[str, int]
) -> None:
    with pytest.raises(PlanInvalid, match=option):
        limits(**settings).check(plan_of(*vectors), 9)


@pytest.mark.parametrize(("start", "stop"), [(9, 13), (12, 14)])
def test_a_range_of_the_answer_is_refused_with_what_does_it(start: int, stop: int) -> None:
    """And the remedy steers just these tokens."""
    with pytest.raises(PlanInvalid) as caught:
        limits().check(plan_of(planned(positions=(start, stop))), 9)
    said = re.search(r"\{.*\}", caught.value.message)
    assert said is not None
    remedy = plan_of(planned(positions=check_rule(json.loads(said[0]))))
    limits().check(remedy, 9)
    assert remedy.vectors[0].span(9) == (start, stop)


def test_other_bad_ranges_are_not_promised_a_remedy() -> None:
    for rule in ((-20, -12), (-20, 40)):
        with pytest.raises(PlanInvalid) as caught:
            limits().check(plan_of(planned(positions=rule)), 9)
        assert "of the answer" not in caught.value.message
