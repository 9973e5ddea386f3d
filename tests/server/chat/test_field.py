import json
import math
from typing import Any

import pytest

from steersman.server.chat.field import SteeringField
from steersman.steering.plan import PlanInvalid


def test_the_long_form() -> None:
    uses = SteeringField.read(
        {
            "vectors": [
                {"id": "a", "coefficient": 1, "layers": [3], "positions": {"start": -2, "stop": 9}},
                {"id": "b", "scale": -0.5, "positions": "all"},
                {"id": "c"},
            ]
        }
    ).uses
    assert [u.coefficient for u in uses] == [1.0, -0.5, None]
    assert uses[0].layers == [3]
    assert uses[0].positions is not None
    assert uses[1].positions == "all"
    assert uses[2].layers is None


def test_the_short_form() -> None:
    uses = SteeringField.read({"vectors": {"a": 1.5, "b": -1}, "dynamic": None}).uses
    assert [(u.id, u.coefficient) for u in uses] == [("a", 1.5), ("b", -1.0)]


def test_dynamic_composition() -> None:
    default = SteeringField.read({"vectors": {"a": 1}, "dynamic": {}}).dynamic
    assert default is not None
    assert default.model_dump() == {
        "start": 2.0, "max": 2.0, "top_p": 0.95, "kl": "mean", "every": 1,
    }  # fmt: skip
    asked = {"start": 0, "max": 7, "top_p": 1, "kl": "sum", "every": 3}
    given = SteeringField.read({"vectors": {"a": 1}, "dynamic": asked}).dynamic
    assert given is not None
    assert given.model_dump() == asked


def test_a_schedule_for_all_and_one_for_a_vector() -> None:
    use = {"id": "a", "schedule": [1, -2.5], "after": "hold"}
    field = SteeringField.read({"vectors": [use], "schedule": "diminishing", "over": 7})
    assert (field.schedule, field.over, field.after) == ("diminishing", 7, None)
    assert (field.uses[0].schedule, field.uses[0].after) == ([1.0, -2.5], "hold")
    longest = SteeringField.read({"vectors": {"a": 1}, "schedule": [1] * 4096})
    assert longest.schedule == [1.0] * 4096


def test_the_words_say_what_would_do() -> None:
    for value, words in (
        ({"top_p": 0}, "must be above 0"),
        ({"top_p": 2}, "must be 1 or less"),
        ({"start": -1}, "must be 0 or more"),
        ({"kl": "max"}, "must be 'mean' or 'sum'"),
    ):
        with pytest.raises(PlanInvalid, match=words):
            SteeringField.read({"vectors": {"a": 1}, "dynamic": value})


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        ("x", "steering", "invalid_steering"),
        ([], "steering", "invalid_steering"),
        ({}, "steering.vectors", "missing_field"),
        ({"vectors": 5}, "steering.vectors", "invalid_steering"),
        ({"vectors": [5]}, "steering.vectors[0]", "invalid_steering"),
        ({"vectors": [{"coefficient": 1}]}, "steering.vectors[0].id", "missing_field"),
        ({"vectors": [{"id": ""}]}, "steering.vectors[0].id", "invalid_steering"),
        ({"vectors": {"a": None}, "x": 1}, "steering.x", "unknown_field"),
        ({"vectors": {"a": math.inf}}, "steering.vectors[0].coefficient", "invalid_steering"),
        ({"vectors": [{"id": "a", "layers": "all"}]}, "steering.vectors[0].layers", None),
        ({"vectors": [{"id": "a", "layers": [True]}]}, "steering.vectors[0].layers[0]", None),
        (
            {"vectors": [{"id": "a", "positions": {"start": 0, "stop": 1, "step": 2}}]},
            "steering.vectors[0].positions",
            None,
        ),
        (
            {"vectors": [{"id": "a", "positions": {"start": True, "stop": 1}}]},
            "steering.vectors[0].positions",
            None,
        ),
        ({"vectors": [{"id": "a", "scale": 1, "coefficient": 1}]}, "steering.vectors[0]", None),
        ({"vectors": {"a": 1}, "dynamic": 2.0}, "steering.dynamic", None),
        ({"vectors": {"a": 1}, "dynamic": {"cap": 1}}, "steering.dynamic.cap", "unknown_field"),
        ({"vectors": {"a": 1}, "dynamic": {"start": -1}}, "steering.dynamic.start", None),
        ({"vectors": {"a": 1}, "dynamic": {"start": math.nan}}, "steering.dynamic.start", None),
        ({"vectors": {"a": 1}, "dynamic": {"start": True}}, "steering.dynamic.start", None),
        ({"vectors": {"a": 1}, "dynamic": {"max": -0.5}}, "steering.dynamic.max", None),
        ({"vectors": {"a": 1}, "dynamic": {"max": math.inf}}, "steering.dynamic.max", None),
        ({"vectors": {"a": 1}, "dynamic": {"max": None}}, "steering.dynamic.max", None),
        ({"vectors": {"a": 1}, "dynamic": {"top_p": 0}}, "steering.dynamic.top_p", None),
        ({"vectors": {"a": 1}, "dynamic": {"top_p": 1.01}}, "steering.dynamic.top_p", None),
        ({"vectors": {"a": 1}, "dynamic": {"top_p": math.nan}}, "steering.dynamic.top_p", None),
        ({"vectors": {"a": 1}, "dynamic": {"kl": "max"}}, "steering.dynamic.kl", None),
        ({"vectors": {"a": 1}, "schedule": "fixed"}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": 2}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": []}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": [1.0] * 4097}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": [1, "2"]}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": [1, math.nan]}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": [1, 1e39]}, "steering.schedule", None),
        ({"vectors": {"a": 1}, "schedule": [1, 10**400]}, "steering.schedule", None),
        ({"vectors": [{"id": "a", "schedule": [True]}]}, "steering.vectors[0].schedule", None),
        ({"vectors": {"a": 1}, "over": 0}, "steering.over", None),
        ({"vectors": {"a": 1}, "over": 4097}, "steering.over", None),
        ({"vectors": [{"id": "a", "over": 1.5}]}, "steering.vectors[0].over", None),
        ({"vectors": {"a": 1}, "after": "go"}, "steering.after", None),
        ({"vectors": [{"id": "a", "after": True}]}, "steering.vectors[0].after", None),
    ],
)
def test_what_is_wrong_is_named(value: Any, param: str, code: str | None) -> None:
    with pytest.raises(PlanInvalid) as caught:
        SteeringField.read(value)
    assert caught.value.param == param
    assert code is None or caught.value.code == code
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize("value", ["text", "", False, True, [], ["a"], 3, 0.5])
def test_what_is_no_field_at_all_is_answered_with_one(value: Any) -> None:
    with pytest.raises(PlanInvalid) as caught:
        SteeringField.read(value)
    assert caught.value.param == "steering"
    example = caught.value.message.rpartition("a right one is ")[2]
    assert SteeringField.read(json.loads(example)).uses[0].id == "cheerful"


@pytest.mark.parametrize("vectors", ["cheerful", [], {}, None, 5, False])
def test_what_are_no_vectors_is_answered_with_some(vectors: Any) -> None:
    for field in ({"vectors": vectors}, {}):
        with pytest.raises(PlanInvalid) as caught:
            SteeringField.read(field)
        assert caught.value.param == "steering.vectors"
        for example in caught.value.message.rpartition("a right one is ")[2].split(", or "):
            assert SteeringField.read({"vectors": json.loads(example)}).uses[0].id == "cheerful"
    with pytest.raises(PlanInvalid, match=r'a right one is \{"id": "cheerful"'):
        SteeringField.read({"vectors": ["cheerful"]})
