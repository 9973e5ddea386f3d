"""The operation of a use: its own or the vector's, with settings; and what the receipt says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.server.auth.permissions import INFER, KeyPermissions
from steersman.server.chat.field import SteeringField
from steersman.server.chat.resolve import Resolved, resolve
from steersman.server.errors import NotAllowed
from steersman.steering.plan import Plan, PlanInvalid, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint
from tests.support.server.make import HIDDEN, MEDIANS, ask, steersman

Ask = Callable[..., Resolved]
POINT = HookPoint("resid_post", 1)
SMALL = {"start": 0.1, "max": 0.1}
OF = {"start": 2, "of": "answer"}
RANGE = {"start": 0, "stop": 1}


def vectors() -> dict[str, SteeringVector]:
    one = torch.ones(HIDDEN)
    plane = torch.eye(HIDDEN)[:2]
    return {
        "dir": SteeringVector({POINT: one, HookPoint("resid_post", 2): 2 * one}, coefficient=4.0),
        "nowhere": SteeringVector({POINT: 0 * one, HookPoint("resid_post", 2): one}),
        "stepping": SteeringVector({POINT: torch.ones(3, HIDDEN)}),
        "away": SteeringVector({POINT: one}, coefficient=0.5, operation=Operation("project")),
        "basis": SteeringVector({POINT: plane}, operation=Operation("project")),
        "held": SteeringVector({POINT: one}, operation=Operation("clamp", max=2.0)),
        "turn": SteeringVector({POINT: plane}, operation=Operation("rotate", angle=30.0)),
        "moved": SteeringVector(
            {POINT: torch.stack([one, one, -one, one])}, operation=Operation("transport")
        ),
        "sae": SteeringVector(
            {POINT: torch.ones(2, HIDDEN)},
            operation=Operation("feature", value=3.0),
            numbers={POINT: torch.ones(2, 1)},
        ),
        "open": SteeringVector(
            {POINT: torch.ones(2, HIDDEN)},
            operation=Operation("feature"),
            numbers={POINT: torch.ones(2, 1)},
        ),
    }


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    app = steersman(tmp_path_factory.mktemp("library"), dose=5.0)
    for name, vector in vectors().items():
        app.whole_library.add(write_vector(vector), name)
    return app


@pytest.fixture(scope="module")
def asked(app: Any) -> Ask:
    def resolved(*uses: Any, **shared: Any) -> Resolved:
        long_form = [{"id": use} if isinstance(use, str) else use for use in uses]
        return ask(app, {"vectors": long_form, **shared})

    return resolved


def planned(resolved: Resolved) -> PlannedVector:
    (vector,) = resolved.plan.vectors
    assert Plan.from_json(resolved.plan.to_json()) == resolved.plan
    return vector


@pytest.mark.parametrize(
    ("use", "operation", "coefficient", "rows"),
    [
        ("dir", Operation(), 4.0, 1),
        ({"id": "dir", "operation": "project", "layers": [1]}, Operation("project"), 1.0, 1),
        ({"id": "dir", "operation": "add", "layers": [1]}, Operation(), 4.0, 1),
        ("away", Operation("project"), 0.5, 1),
        ({"id": "away", "operation": "add"}, Operation(), 1.0, 1),
        ({"id": "away", "coefficient": 2}, Operation("project"), 2.0, 1),
        ("basis", Operation("project"), 1.0, 2),
        ("held", Operation("clamp", max=2.0), 1.0, 1),
        ({"id": "held", "min": -1}, Operation("clamp", min=-1.0, max=2.0), 1.0, 1),
        ({"id": "held", "max": 7}, Operation("clamp", max=7.0), 1.0, 1),
        ({"id": "away", "operation": "clamp", "min": 1}, Operation("clamp", min=1.0), 1.0, 1),
        ({"id": "turn", "adaptive": True}, Operation("rotate", angle=30.0, adaptive=True), 1.0, 2),
        ("moved", Operation("transport"), 1.0, 4),
        ("sae", Operation("feature", value=3.0), 1.0, 2),
        ({"id": "sae", "multiply": 0}, Operation("feature", multiply=0.0), 1.0, 2),
        ({"id": "open", "value": 1.5}, Operation("feature", value=1.5), 1.0, 2),
        ({"id": "dir", "operation": "replace", "positions": RANGE}, Operation("replace"), 1.0, 1),
        ({"id": "dir", "operation": "replace", "positions": OF}, Operation("replace"), 1.0, 1),
    ],
)
def test_the_uses_own_keys_come_before_the_vectors(
    asked: Ask, use: Any, operation: Operation, coefficient: float, rows: int
) -> None:
    resolved = asked(use)
    vector = planned(resolved)
    assert (vector.operation, vector.coefficient, vector.rows) == (operation, coefficient, rows)
    (receipt,) = resolved.draft
    said = {key: receipt[key] for key in operation.said()}
    assert said == operation.said()
    if operation.adds:
        assert "operation" not in receipt
        assert receipt["relative_dose"]
    else:
        assert receipt["relative_dose"] is None


def test_bounds_in_median_norms_are_those_of_each_layer(asked: Ask) -> None:
    use = {"id": "dir", "operation": "clamp", "max": 0.5, "unit": "median_norm"}
    vector = planned(asked(use))
    wanted = [as_float32(MEDIANS[f"resid_post.{layer}"]) for layer in (1, 2)]
    assert vector.units == tuple(wanted)
    assert [vector.bounds(n)[1] for n in range(2)] == [0.5 * unit for unit in wanted]
    assert vector.bounds(0)[0] == float("-inf")


def test_positions_of_the_answer(asked: Ask) -> None:
    resolved = asked({"id": "dir", "positions": OF})
    assert planned(resolved).positions == "answer:2:"
    assert resolved.draft[0]["positions"] == OF
    for wrong in ({"of": "answer"}, {"start": -2, "of": "answer"}, {"start": 1, "of": "prompt"}):
        with pytest.raises(PlanInvalid) as refused:
            asked({"id": "dir", "positions": wrong})
        assert refused.value.param == "steering.vectors[0].positions"


def test_the_norm_is_kept_for_all(asked: Ask) -> None:
    assert asked("dir", keep_norm=True).plan.keep_norm
    assert not asked("dir").plan.keep_norm


@pytest.mark.parametrize(
    ("uses", "shared", "param"),
    [
        ([{"id": "dir", "operation": "subtract"}], {}, "steering.vectors[0].operation"),
        ([{"id": "dir", "min": 1}], {}, "steering.vectors[0].min"),
        ([{"id": "dir", "operation": "project", "angle": 1}], {}, "steering.vectors[0].angle"),
        ([{"id": "dir", "operation": "clamp"}], {}, "steering.vectors[0].min"),
        (
            [{"id": "dir", "operation": "clamp", "min": 2, "max": 1}],
            {},
            "steering.vectors[0].min",
        ),
        ([{"id": "held", "min": 3}], {}, "steering.vectors[0].min"),
        (
            [{"id": "dir", "operation": "clamp", "min": 1, "unit": "inch"}],
            {},
            "steering.vectors[0].unit",
        ),
        (
            [{"id": "dir", "operation": "clamp", "min": float("nan")}],
            {},
            "steering.vectors[0].min",
        ),
        (["open"], {}, "steering.vectors[0].value"),
        ([{"id": "sae", "value": 1, "multiply": 2}], {}, "steering.vectors[0].multiply"),
        ([{"id": "sae", "operation": "project"}], {}, "steering.vectors[0].operation"),
        ([{"id": "sae", "operation": "add"}], {}, "steering.vectors[0].operation"),
        ([{"id": "dir", "operation": "rotate", "angle": 3}], {}, "steering.vectors[0].operation"),
        ([{"id": "turn", "adaptive": 1}], {}, "steering.vectors[0].adaptive"),
        ([{"id": "basis", "operation": "add"}], {}, "steering.vectors[0].operation"),
        ([{"id": "stepping", "operation": "project"}], {}, "steering.vectors[0].operation"),
        ([{"id": "nowhere", "operation": "project"}], {}, "steering.vectors[0].id"),
        ([{"id": "dir", "operation": "replace"}], {}, "steering.vectors[0].positions"),
        (
            [{"id": "dir", "operation": "replace", "positions": "prompt"}],
            {},
            "steering.vectors[0].positions",
        ),
        (["dir", "away"], {"dynamic": SMALL}, "steering.vectors[1].operation"),
        (["dir"], {"dynamic": SMALL, "keep_norm": True}, "steering.keep_norm"),
        (["dir"], {"keep_norm": 1}, "steering.keep_norm"),
        (["basis"] * 5, {}, "steering.vectors"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_key(
    asked: Ask, uses: list[Any], shared: dict[str, Any], param: str
) -> None:
    with pytest.raises(PlanInvalid) as refused:
        asked(*uses, **shared)
    assert refused.value.param == param


def test_a_direction_that_points_nowhere_is_no_matter_where_it_is_not_used(asked: Ask) -> None:
    assert planned(asked({"id": "nowhere", "operation": "project", "layers": [2]}))


def test_an_engine_that_only_adds_says_so(app: Any) -> None:
    from dataclasses import replace

    limits = replace(app.limits, operations=("add",), own_sites=())
    view = app.library_for(KeyPermissions("", frozenset({INFER})))
    for value, param in (
        ({"vectors": {"away": 1}}, "steering.vectors[0].operation"),
        ({"vectors": {"dir": 1}, "keep_norm": True}, "steering.keep_norm"),
    ):
        with pytest.raises(PlanInvalid) as refused:
            resolve(SteeringField.read(value), "r", view, limits, app.all_doses)
        assert (refused.value.param, refused.value.code) == (param, "operation_not_served")


def test_a_key_may_use_the_operations_that_it_names(app: Any) -> None:
    key = KeyPermissions("tenant", frozenset({INFER}), operations=("add", "project"))
    view = app.library_for(key)
    for use in ({"id": "dir"}, {"id": "away"}):
        resolve(SteeringField.read({"vectors": [use]}), "r", view, app.limits, app.all_doses)
    field = SteeringField.read({"vectors": [{"id": "held"}]})
    with pytest.raises(NotAllowed) as refused:
        resolve(field, "r", view, app.limits, app.all_doses)
    assert (refused.value.param, refused.value.code) == (
        "steering.vectors[0].operation",
        "operation_not_allowed",
    )
    assert app.capabilities_for(key)["operations"] == ["add", "project"]


def test_the_library_lists_the_operation(app: Any, tmp_path: Path) -> None:
    from steersman.server.library.schemas import Vector

    found = Vector.of(app.whole_library.resolve("held"))
    assert (found.operation, found.operation_settings) == ("clamp", {"max": 2.0})
