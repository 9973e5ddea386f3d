"""`steering.read`: names become readouts, and values parts of receipts and chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from steersman.server.auth.permissions import INFER, KeyPermissions
from steersman.server.chat.field import SteeringField
from steersman.server.chat.reading.values import ReadValues
from steersman.server.chat.receipt import ONLY_READS, note
from steersman.server.chat.resolve import resolve
from steersman.server.chat.trace import Answers
from steersman.steering.plan import RECEIPTS, Plan, PlanInvalid, WorkerNote
from steersman.steering.plan.wire.readouts import ReadChunk, Readout
from steersman.vectors.errors import VectorNotFound
from steersman.vectors.tensors import HookPoint
from tests.support.server.make import ask, steersman
from tests.support.steering.make import digest


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return steersman(tmp_path_factory.mktemp("library"), dose=5.0)


def test_a_read_alone(app: Any) -> None:
    made = ask(app, {"read": [{"id": "plain"}, {"id": "other", "tokens": "last"}]})
    assert made.plan.vectors == ()
    assert [one.terms for one in made.plan.readouts] == [
        (HookPoint("resid_post", 1),),
        (HookPoint("resid_post", 2),),
    ]
    assert made.plan.reads is False
    assert made.plan.layout(9).segments == ()
    assert made.plan.cache_key(0, 9, 9) is None
    assert len(made.plan.bank_keys) == len(made.plan.row_sets) == 2
    assert Plan.from_json(made.plan.to_json()) == made.plan
    assert note(made.plan, None) == ONLY_READS


def test_what_is_read_where_it_is_added_is_added_there(app: Any) -> None:
    """Else an addition at a branch is made behind the block, and the branch would not show it."""
    plan = ask(app, {"vectors": {"plain": 1.0}, "read": [{"id": "plain"}]}).plan
    (vector,), (readout,) = plan.vectors, plan.readouts
    at_branch = HookPoint("mlp_out", 1)
    moved = Readout(readout.digest, (at_branch,), "projection", "answer")
    steered = type(vector)(vector.digest, 1.0, (at_branch,), "all")
    assert plan.reads is False
    assert Plan((steered,), readouts=(readout,)).reads is False
    assert Plan((steered,), readouts=(moved,)).reads is True


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"read": [{"id": "plain"}, {"id": "steps"}]}, "steering.read[1].id"),
        ({"read": [{"id": "single"}]}, "steering.read[0].id"),
        ({"read": [{"id": "plain", "layers": [2]}]}, "steering.read[0].layers"),
        ({"read": [{"id": "plain", "layers": [4]}]}, "steering.read[0].layers"),
        ({"read": [{"id": "plain"}], "dynamic": {}}, "steering.dynamic"),
        ({"read": [{"id": "plain"}], "keep_norm": True}, "steering.keep_norm"),
        ({"read": [{"id": "plain"}], "schedule": "start"}, "steering.schedule"),
    ],
)
def test_refused(app: Any, field: dict[str, Any], param: str) -> None:
    with pytest.raises(PlanInvalid) as refused:
        ask(app, field)
    assert refused.value.param == param


def test_a_key_reads_only_what_it_sees(app: Any) -> None:
    view = app.library_for(KeyPermissions("k", frozenset({INFER}), vectors=("other",)))
    field = SteeringField.read({"read": [{"id": "other"}, {"id": "plain"}]})
    with pytest.raises(VectorNotFound) as refused:
        resolve(field, "r", view, app.limits, app.all_doses)
    assert refused.value.param == "steering.read[1].id"


READOUTS = (
    Readout(
        digest(1), (HookPoint("resid_post", 1), HookPoint("resid_post", 3)), "cosine", "answer"
    ),
    Readout(digest(2), (HookPoint("attn_out", 1), HookPoint("mlp_out", 1)), "projection", "prompt"),
)
DRAFTS = [
    {"id": n, "digest": one.digest, "measure": one.measure, "tokens": one.tokens}
    for n, one in enumerate(READOUTS)
]


def chunk(readout: int, first: int, *values: list[float]) -> ReadChunk:
    return ReadChunk(readout, first, np.array(values, np.float32).tobytes())


@pytest.fixture
def values() -> Iterator[ReadValues]:
    """Of two answers."""
    RECEIPTS.open("v")
    yield ReadValues("v", READOUTS, DRAFTS, Answers(n=2))
    RECEIPTS.close("v")


def deliver(choice: int, *chunks: ReadChunk) -> None:
    name = f"{choice}_chatcmpl-x-00000000"
    RECEIPTS.deliver(name, WorkerNote("v", (), -1, (), reads=chunks))


def test_values_come_in_parts_and_whole(values: ReadValues) -> None:
    deliver(0, chunk(1, 0, [1, 2], [3, 4]), chunk(1, 2, [5], [6]), chunk(0, 2, [0.5], [0.25]))
    answer, prompt = values.part(0, 0, 1)
    assert answer["values"] == {"1": [0.5], "3": [0.25]}
    assert prompt["values"] == {"attn_out.1": [1, 2, 5], "mlp_out.1": [3, 4, 6]}
    deliver(0, chunk(0, 3, [0.75], [1.0]))
    deliver(1, chunk(0, 2, [-1.0], [-0.5]))
    deliver(0, chunk(0, 4, [2.0], [3.0]))
    # Behind the first token there is nothing of the prompt; two tokens may come in one chunk.
    (later,) = values.part(0, 1, 3)
    assert later == {"id": 0, "measure": "cosine", "tokens": "answer",
                     "values": {"1": [0.75, 2.0], "3": [1.0, 3.0]}}  # fmt: skip
    first, second = values.whole()
    assert first["values"] == [
        {"1": [0.5, 0.75, 2.0], "3": [0.25, 1.0, 3.0]},
        {"1": [-1.0], "3": [-0.5]},
    ]
    assert second["values"][1] == {"attn_out.1": [], "mlp_out.1": []}
