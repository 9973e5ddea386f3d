import math
from typing import Any

import pytest

from server.steering_field import SteeringField
from steering.plan import PlanInvalid


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
        ({"vectors": {"a": 1}, "dynamic": {}}, "steering.dynamic", None),
    ],
)
def test_what_is_wrong_is_named(value: Any, param: str, code: str | None) -> None:
    with pytest.raises(PlanInvalid) as caught:
        SteeringField.read(value)
    assert caught.value.param == param
    assert code is None or caught.value.code == code
    assert caught.value.message.startswith(param)
