"""The gate of a use: its vector and threshold, what is refused by its key, and its receipt."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from steersman.server.auth.permissions import INFER, OPEN, KeyPermissions
from steersman.server.chat.resolve import Resolved
from steersman.server.chat.steered_request import resolved
from steersman.server.chat.trace import Answers
from steersman.server.chat.when.gates import GateReceipt, counted
from steersman.steering.plan import Plan, PlanInvalid, WorkerNote
from steersman.steering.plan.receipt import GateCount
from steersman.steering.plan.when.gates import PlannedGate
from steersman.vectors.errors import PresetConflict
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint
from tests.support.server.make import HIDDEN, ask, steersman

Ask = Callable[..., Resolved]
POINT = HookPoint("resid_post", 1)
GATE = {"id": "told", "layer": 1, "measure": "cosine", "above": 0.25}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    app = steersman(tmp_path_factory.mktemp("library"))
    one = torch.ones(HIDDEN)
    for name, vector in {
        "dir": SteeringVector({POINT: one, HookPoint("resid_post", 2): one}),
        "told": SteeringVector({POINT: 2 * one}),
        "zero": SteeringVector({POINT: 0 * one, HookPoint("resid_post", 2): one}),
        "stepping": SteeringVector({POINT: torch.ones(3, HIDDEN)}),
        "turn": SteeringVector(
            {POINT: torch.eye(HIDDEN)[:2]}, operation=Operation("rotate", angle=30.0)
        ),
        "sites": SteeringVector({POINT: one, HookPoint("attn_out", 1): one}),
    }.items():
        app.whole_library.add(write_vector(vector), name)
    return app


@pytest.fixture(scope="module")
def asked(app: Any) -> Ask:
    def made(gate: Any, **use: Any) -> Resolved:
        return ask(app, {"vectors": [{"id": "dir", "gate": gate, **use}]})

    return made


def test_a_gate_of_a_request(app: Any, asked: Ask) -> None:
    made = asked(GATE)
    (vector,) = made.plan.vectors
    told = app.whole_library.resolve("told").digest
    assert vector.gate == PlannedGate(told, POINT, "cosine", 0.25)
    assert Plan.from_json(made.plan.to_json()) == made.plan
    (draft,) = made.draft
    said = {**GATE, "site": "resid_post", "digest": told, "over": "token"}
    assert draft["gate"] == said
    other = {"id": "told", "layer": 1, "measure": "cast", "below": -0.5, "over": "prompt_mean"}
    (vector,) = asked(other).plan.vectors
    assert vector.gate == PlannedGate(told, POINT, "cast", -0.5, True, "prompt_mean")
    assert "gate" not in ask(app, {"vectors": {"dir": 1}}).draft[0]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"above": None}, "gate"),
        ({"below": 0.5}, "gate"),
        ({"above": float("nan")}, "gate.above"),
        ({"above": 1e39}, "gate.above"),
        ({"above": "much"}, "gate.above"),
        ({"above": None, "below": float("inf")}, "gate.below"),
        ({"measure": "sine"}, "gate.measure"),
        ({"over": "answer"}, "gate.over"),
        ({"id": "stepping"}, "gate.id"),
        ({"id": "turn"}, "gate.id"),
        ({"id": "sites"}, "gate.id"),
        ({"id": "zero"}, "gate.id"),
        ({"layer": 2}, "gate.layer"),
        ({"layer": "1"}, "gate.layer"),
        ({"lair": 1}, "gate.lair"),
        ({"id": "dir", "layer": 2}, "gate.layer"),
    ],
)
def test_what_is_wrong_with_a_gate_has_its_key(
    asked: Ask, changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(PlanInvalid) as caught:
        asked({key: value for key, value in {**GATE, **changes}.items() if value is not None})
    assert caught.value.param == f"steering.vectors[0].{param}"


def test_a_gate_that_the_prompt_decides_governs_what_is_behind_it(asked: Ask) -> None:
    for over in ("prompt_last", "prompt_mean"):
        asked({**GATE, "over": over}, positions="after_prompt")
        with pytest.raises(PlanInvalid) as caught:
            asked({**GATE, "over": over}, positions="all")
        assert caught.value.param == "steering.vectors[0].positions"


def test_where_there_are_no_gates(app: Any) -> None:
    assert app.capabilities_for(OPEN)["gates"]["max_gates"] == 8
    without = replace(app.limits, no_gates="a GPU")
    closed = replace(app, limits=without)
    assert closed.capabilities_for(OPEN)["gates"] is None
    with pytest.raises(PlanInvalid, match="not served with a GPU") as caught:
        ask(closed, {"vectors": [{"id": "dir", "gate": GATE}]})
    assert caught.value.param == "steering.vectors[0].gate"


def test_a_key_sees_the_vectors_of_gates_or_not(app: Any) -> None:
    some = KeyPermissions("k", frozenset((INFER,)), vectors=("dir",))
    context = app.steering_for(some)
    with pytest.raises(PlanInvalid) as caught:
        resolved(context, {"vectors": [{"id": "dir", "gate": GATE}]})
    where = "steering.vectors[0].gate.id", "vector_not_found"
    assert (caught.value.param, caught.value.code) == where
    resolved(context, {"vectors": [{"id": "dir", "gate": {**GATE, "id": "dir"}}]})


def test_a_preset_pins_the_vectors_of_its_gates(app: Any) -> None:
    presets, library = app.presets_for(OPEN), app.whole_library
    told = library.resolve("told").digest
    field = {"vectors": [{"id": "dir", "gate": GATE}, {"id": "other", "coefficient": 1.0}]}
    made, _ = presets.add("pinned", field, follow=False, description="")
    following, _ = presets.add("following", field, follow=True, description="")
    assert made.now.vectors == ("dir", "other", "told")
    with pytest.raises(PresetConflict):
        presets.check_unused("told")
    library.add(write_vector(SteeringVector({POINT: 3 * torch.ones(HIDDEN)})), "new")
    library.update("told", digest=library.resolve("new").digest)
    try:
        pinned = resolved(app.steering_for(OPEN), made.now.as_asked()).plan
        followed = resolved(app.steering_for(OPEN), following.now.as_asked()).plan
        assert pinned.gates[0].digest == told != followed.gates[0].digest
        assert made.now.steering["vectors"][0]["gate"]["id"] == "told"
    finally:
        library.update("told", digest=told)


def note(*gates: GateCount) -> WorkerNote:
    return WorkerNote("r", (0,), -1, (), gates=gates)


def test_the_receipt_sums_over_answers() -> None:
    said = {"id": "told", "digest": "d", "site": "s", "layer": 1, "measure": "cosine"}
    each = {**said, "above": 0.5, "over": "token"}
    notes = {"a": note(GateCount(5, 2)), "b": note(GateCount(4, 4))}
    found = counted(each, 0, notes, Answers())
    assert found == {**each, "tokens": 9, "passed_tokens": 6}
    once = {**said, "below": 0.5, "over": "prompt_last"}
    one = counted(once, 0, {"a": note(GateCount(5, 5, True, 0.25))}, Answers())
    assert (one["passed"], one["value"], one["passed_tokens"]) == (True, 0.25, 5)
    several = {
        "1_r-0123abcd": note(GateCount(), GateCount(5, 0, False, 0.75)),
        "0_r-0123abcd": note(GateCount(), GateCount(5, 5, True, 0.25)),
    }
    found = counted(once, 1, several, Answers(3))
    assert (found["passed"], found["value"]) == ([True, False, None], [0.25, 0.75, None])
    for receipt in (each, one, found):
        GateReceipt(**{"tokens": 0, "passed_tokens": 0, **receipt})
