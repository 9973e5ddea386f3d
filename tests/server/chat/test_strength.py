"""Schedules, per-step vectors and dynamic requests: what the keys mean together, and which pairs of
them are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.server.chat.resolve import Resolved
from steersman.steering.plan import Dynamic, Plan, PlanInvalid, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.positions import END
from tests.support.server.make import ask, steersman

Ask = Callable[..., Resolved]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Resolves uses of vectors, with the keys of the whole field behind them."""
    app = steersman(tmp_path_factory.mktemp("library"))

    def resolved(*uses: Any, **shared: Any) -> Resolved:
        long_form = [{"id": use} if isinstance(use, str) else use for use in uses]
        return ask(app, {"vectors": long_form, **shared})

    return resolved


def planned(resolved: Resolved) -> PlannedVector:
    (vector,) = resolved.plan.vectors
    return vector


def refused(asked: Ask, *uses: Any, **shared: Any) -> tuple[str, str]:
    with pytest.raises(PlanInvalid) as caught:
        asked(*uses, **shared)
    return caught.value.param, caught.value.code


def test_a_plain_request_says_nothing_new(asked: Ask) -> None:
    resolved = asked({"id": "plain", "coefficient": 2})
    assert set(resolved.draft[0]) == {
        "id", "digest", "site", "layers", "coefficient", "positions", "relative_dose",
        "total_dose", "outside_safe_range", "base_model_matches",
    }  # fmt: skip
    vector = planned(resolved)
    assert (vector.schedule, vector.steps, vector.hold) == ((), 1, False)
    assert resolved.plan.dynamic is None
    constant = asked({"id": "plain", "coefficient": 2, "schedule": "constant"})
    assert (constant.draft, constant.plan) == (resolved.draft, resolved.plan)


SHARED = pytest.mark.parametrize("shared", [False, True], ids=["in the use", "for all"])


@SHARED
@pytest.mark.parametrize(
    ("keys", "coefficient", "schedule"),
    [
        ({"schedule": "start"}, 0.5, (0.5,)),
        ({"schedule": "diminishing", "over": 4}, 0.5, (0.5, 0.375, 0.25, 0.125)),
        ({"schedule": "diminishing", "over": 1}, 0.5, (0.5,)),
        ({"schedule": [1, -3.0, 0.1]}, -3.0, (1.0, -3.0, as_float32(0.1))),
    ],
)
def test_a_schedule(
    asked: Ask, shared: bool, keys: dict[str, Any], coefficient: float, schedule: tuple[float, ...]
) -> None:
    resolved = asked("plain", **keys) if shared else asked({"id": "plain", **keys})
    vector = planned(resolved)
    assert (vector.coefficient, vector.schedule, vector.hold) == (coefficient, schedule, False)
    assert vector.positions == "all"
    (draft,) = resolved.draft
    assert draft["coefficient"] == coefficient
    assert {k: draft[k] for k in ("schedule", "over") if k in draft} == keys


def test_a_schedule_is_exact_in_float32(asked: Ask) -> None:
    use = {"id": "plain", "coefficient": 0.1, "schedule": "diminishing", "over": 3}
    assert planned(asked(use)).schedule == tuple(as_float32(0.1 * (1 - i / 3)) for i in range(3))


def test_what_a_use_says_wins(asked: Ask) -> None:
    resolved = asked(
        "plain",
        {"id": "other", "schedule": "diminishing", "over": 2},
        {"id": "other", "schedule": "constant", "coefficient": 3},
        {"id": "other", "schedule": "diminishing"},
        schedule="start",
        over=4,
    )
    assert [v.schedule for v in resolved.plan.vectors] == [
        (0.5,), (1.0, 0.5), (), (1.0, 0.75, 0.5, 0.25),
    ]  # fmt: skip


def test_a_list_may_go_on(asked: Ask) -> None:
    hold = asked({"id": "plain", "schedule": [1, 2], "after": "hold"})
    assert (planned(hold).hold, hold.draft[0]["after"]) == (True, "hold")
    stop = asked({"id": "plain", "schedule": [1, 2]})
    assert (planned(stop).hold, stop.draft[0]["after"]) == (False, "stop")
    (start,) = asked({"id": "plain", "schedule": "start"}).draft
    assert "after" not in start


def test_a_vector_of_several_steps(asked: Ask) -> None:
    stop = asked("steps")
    vector = planned(stop)
    assert (vector.steps, vector.hold, vector.span(10)) == (3, False, (9, 12))
    assert (stop.draft[0]["steps"], stop.draft[0]["after"]) == (3, "stop")
    hold = asked({"id": "steps", "after": "hold"})
    assert (planned(hold).hold, hold.draft[0]["after"]) == (True, "hold")
    assert len(stop.plan.bank_keys) == 3
    assert "steps" not in asked("plain").draft[0]
    both = asked({"id": "steps", "schedule": "diminishing", "over": 2, "after": "stop"})
    assert (planned(both).schedule, planned(both).hold) == ((1.0, 0.5), False)


def test_one_step_is_one_step(asked: Ask) -> None:
    """[1, hidden] steers one token, as [steps, hidden] does `steps`; [hidden] steers all."""
    one = asked({"id": "single", "coefficient": 2})
    vector = planned(one)
    assert (vector.coefficient, vector.span(10)) == (2.0, (9, 10))
    assert (one.draft[0]["steps"], one.draft[0]["after"]) == (1, "stop")
    hold = asked({"id": "single", "coefficient": 2, "after": "hold"})
    assert planned(hold).span(10) == (9, END)
    assert (planned(hold).schedule, hold.draft[0]["after"]) == ((), "hold")
    for keys in ({"schedule": [3, 1, 1]}, {"schedule": "start", "coefficient": 3},
                 {"schedule": "diminishing", "over": 5, "coefficient": 3}):  # fmt: skip
        assert planned(asked({"id": "single", **keys})).schedule == (3.0,)
    listed = asked({"id": "single", "schedule": [3, 1], "after": "hold"})
    assert (planned(listed).schedule, planned(listed).hold) == ((3.0, 1.0), True)
    assert one.plan.bank_keys == hold.plan.bank_keys


def test_one_step_beside_all_tokens_is_ambiguous(asked: Ask) -> None:
    assert refused(asked, "mixed") == ("steering.vectors[0].layers", "different_steps")
    assert planned(asked({"id": "mixed", "layers": [2]})).schedule == ()


def test_one_step_is_composed_if_it_goes_on(asked: Ask) -> None:
    assert refused(asked, "single", dynamic={}) == (
        "steering.vectors[0].after",
        "invalid_steering",
    )
    assert planned(asked({"id": "single", "after": "hold"}, dynamic={})).hold


def test_after_for_all_is_for_those_that_have_an_end(asked: Ask) -> None:
    resolved = asked("plain", "steps", {"id": "other", "schedule": [1]}, after="hold")
    assert [v.hold for v in resolved.plan.vectors] == [False, True, True]
    assert "after" not in resolved.draft[0]
    own = asked("steps", {"id": "steps", "after": "stop"}, after="hold")
    assert [v.hold for v in own.plan.vectors] == [True, False]


@pytest.mark.parametrize(
    ("uses", "shared", "param"),
    [
        ([{"id": "plain", "schedule": "diminishing"}], {}, "steering.vectors[0].over"),
        (["plain"], {"schedule": "diminishing"}, "steering.over"),
        (["plain", {"id": "plain", "over": 3}], {}, "steering.vectors[1].over"),
        ([{"id": "plain", "schedule": "start", "over": 3}], {}, "steering.vectors[0].over"),
        (["plain"], {"over": 3}, "steering.over"),
        (["plain"], {"schedule": "start", "over": 3}, "steering.over"),
        ([{"id": "plain", "schedule": [1], "coefficient": 1}], {},
         "steering.vectors[0].coefficient"),
        (["other", {"id": "plain", "scale": 1}], {"schedule": [1]},
         "steering.vectors[1].coefficient"),
        ([{"id": "plain", "after": "stop"}], {}, "steering.vectors[0].after"),
        ([{"id": "plain", "schedule": "start", "after": "hold"}], {}, "steering.vectors[0].after"),
        (["plain"], {"after": "stop"}, "steering.after"),
        (["plain"], {"schedule": "start", "after": "hold"}, "steering.after"),
        ([{"id": "steps", "schedule": "start", "after": "hold"}], {}, "steering.vectors[0].after"),
        ([{"id": "steps", "schedule": "diminishing", "over": 2}], {"after": "hold"},
         "steering.after"),
        (["uneven"], {}, "steering.vectors[0].layers"),
        (["plain", "long"], {}, "steering.vectors[1].id"),
        ([{"id": "plain", "schedule": [1, 101]}], {}, "steering.vectors[0].schedule"),
        (["plain"], {"schedule": [1, 101]}, "steering.schedule"),
        ([{"id": "plain", "schedule": "start", "coefficient": 101}], {},
         "steering.vectors[0].coefficient"),
        ([{"id": "plain", "schedule": "start"}], {"dynamic": {}}, "steering.vectors[0].schedule"),
        (["plain"], {"dynamic": {}, "schedule": "constant"}, "steering.schedule"),
        (["plain"], {"dynamic": {}, "schedule": "diminishing"}, "steering.schedule"),
        (["plain"], {"dynamic": {}, "over": 3}, "steering.over"),
        (["plain"], {"dynamic": {}, "after": "hold"}, "steering.after"),
        ([{"id": "plain", "positions": "all"}], {"dynamic": {}}, "steering.vectors[0].positions"),
        ([{"id": "plain", "coefficient": -1}], {"dynamic": {}}, "steering.vectors[0].coefficient"),
        ([{"id": "plain", "coefficient": 101}], {"dynamic": {}}, "steering.vectors[0].coefficient"),
        (["plain"], {"dynamic": {"max": 101}}, "steering.dynamic.max"),
        (["plain"], {"dynamic": {"start": 101}}, "steering.dynamic.start"),
        (["plain"] * 9, {"dynamic": {}}, "steering.vectors"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    asked: Ask, uses: list[Any], shared: dict[str, Any], param: str
) -> None:
    assert refused(asked, *uses, **shared)[0] == param


def test_codes(asked: Ask) -> None:
    assert refused(asked, "plain", schedule="diminishing")[1] == "missing_field"
    assert refused(asked, "uneven")[1] == "different_steps"
    assert refused(asked, "plain", dynamic={"max": 101})[1] == "dose_over_limit"


def test_layers_with_the_same_number_of_steps(asked: Ask) -> None:
    assert planned(asked({"id": "uneven", "layers": [2]})).steps == 2


def test_a_dynamic_request(asked: Ask) -> None:
    resolved = asked("plain", "other", dynamic={})
    assert resolved.plan.dynamic == Dynamic(start=2.0, top_p=0.95, mean=True)
    # Neither the vector's own coefficient nor its own positions play a part.
    assert [(v.coefficient, v.positions) for v in resolved.plan.vectors] == [
        (2.0, "generation"), (2.0, "generation"),
    ]  # fmt: skip
    assert [d["coefficient"] for d in resolved.draft] == [2.0, 2.0]
    set_ = asked("plain", dynamic={"start": 1, "max": 0.1, "top_p": 1, "kl": "sum"})
    assert set_.plan.dynamic == Dynamic(start=1.0, top_p=1.0, mean=False)
    assert planned(set_).coefficient == as_float32(0.1)


def test_a_coefficient_that_the_request_gives_is_the_cap(asked: Ask) -> None:
    uses = [{"id": "plain", "coefficient": 0}, {"id": "other", "scale": 1.5}, "other"]
    dynamic = {"max": 3}
    assert [v.coefficient for v in asked(*uses, dynamic=dynamic).plan.vectors] == [0, 1.5, 3]


def test_each_vector_may_have_a_setting_of_its_own(asked: Ask) -> None:
    own = {"start": 0.5, "max": 1.25, "top_p": 0.5}
    uses = [{"id": "plain", "dynamic": own}, {"id": "other", "dynamic": {"top_p": 0.9}}, "other"]
    plan = asked(*uses, dynamic={"max": 3, "top_p": 0.9, "every": 4}).plan
    assert [v.coefficient for v in plan.vectors] == [1.25, 3, 3]
    assert plan.dynamic == Dynamic(
        2.0, 0.9, True, every=4, starts=(0.5, 2.0, 2.0), top_ps=(0.5, 0.9, 0.9)
    )
    assert [plan.alone(n).vectors[0].coefficient for n in (1, 2)] == [0.5, 2.0]  # type: ignore[union-attr]
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("use", "dynamic", "param"),
    [
        ({"dynamic": {"max": 1}}, None, "steering.vectors[0].dynamic"),
        ({"dynamic": {"max": 1}, "coefficient": 1}, {}, "steering.vectors[0].coefficient"),
        ({"dynamic": {"max": 101}}, {}, "steering.vectors[0].dynamic.max"),
        ({"dynamic": {"start": 101}}, {}, "steering.vectors[0].dynamic.start"),
        ({}, {"start": 101}, "steering.dynamic.start"),
        ({}, {"every": 0}, "steering.dynamic.every"),
        ({}, {"every": 65}, "steering.dynamic.every"),
    ],
)
def test_settings_that_are_refused(
    asked: Ask, use: dict[str, Any], dynamic: dict[str, Any] | None, param: str
) -> None:
    with pytest.raises(PlanInvalid) as refused:
        asked({"id": "plain", **use}, dynamic=dynamic)
    assert refused.value.param == param


def test_the_short_form_gives_caps(tmp_path: Path) -> None:
    field = {"vectors": {"plain": 1.5, "other": 0.25}, "dynamic": {}}
    resolved = ask(steersman(tmp_path), field)
    assert [v.coefficient for v in resolved.plan.vectors] == [1.5, 0.25]


def test_steps_in_a_dynamic_request(asked: Ask) -> None:
    assert planned(asked("steps", dynamic={}, after="hold")).hold
    named = asked({"id": "steps", "positions": "generation"}, dynamic={})
    assert (planned(named).steps, planned(named).hold) == (3, False)
