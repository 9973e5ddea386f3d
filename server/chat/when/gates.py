"""The gate of a use of a vector: its schema, its vector, and what the receipt says of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from steersman.server.auth.library_view import LibraryView
from steersman.server.chat.trace import Answers
from steersman.server.chat.when.bounded import Bounded, finite_setting
from steersman.server.doses import Doses
from steersman.steering.plan import PlanInvalid, WorkerNote
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.receipt import GateCount
from steersman.steering.plan.when.gates import Measure, Over, PlannedGate
from steersman.vectors.errors import VectorInvalid, VectorNotFound
from steersman.vectors.library.library import Entry
from steersman.vectors.parts import ALIKE, check_direction
from steersman.vectors.tensors import tensor_name

Threshold = Annotated[StrictFloat | None, AfterValidator(finite_setting)]


class GateUse(Bounded):
    """What decides whether a use of a vector acts: what another vector measures in the stream."""

    id: StrictStr = Field(
        min_length=1, max_length=1024, description="The vector that it measures with."
    )
    layer: StrictInt = Field(
        description="Where: at this vector's site in this block, which may not lie behind a hook "
        "point of the use."
    )
    measure: Measure = Field(
        description="Of the stream h with the vector v: `projection` is h.v / |v|, `cosine` is "
        "h.v / (|h| |v|), `cast` is the cosine of h and tanh(v (v.h) / (v.v))."
    )
    above: Threshold = Field(
        None, description="It passes where the measure is above this; give one of the two."
    )
    below: Threshold = Field(None, description="It passes where the measure is below this.")
    over: Over = Field(
        "token",
        description="`token`: decided at each token; `prompt_last`: once, at the prompt's last "
        "token; `prompt_mean`: once, on the mean of the prompt's stream.",
    )

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("give one of `above` and `below`")
        return self


def resolve_gate(use: GateUse, library: LibraryView, doses: Doses, where: str) -> PlannedGate:
    """The gate that `use` asks for. `where`: its path in the request. Raises `PlanInvalid`, or the
    library's `VectorNotFound` and `VectorInvalid`, whose `param` is the key."""
    entry = find(library, use.id, f"{where}.id")
    points = [point for point in entry.tensors if point.layer == use.layer]
    if not points:
        layers = sorted({layer for _, layer in entry.tensors})
        raise PlanInvalid(
            f"vector {use.id!r} has no layer {use.layer}; it has {layers}",
            param=f"{where}.layer",
            code="layer_not_in_vector",
        )
    (point, *others) = points
    if others or len(entry.tensors[point]) > 1 or entry.operation.name not in ALIKE:
        what = f"{1 + len(others)} sites at layer {use.layer}" if others else "several tensors"
        raise PlanInvalid(
            f"a gate needs a vector with one direction at its layer, and {use.id!r} has {what}; "
            "name another, or make a file of the one tensor",
            param=f"{where}.id",
            code="not_one_direction",
        )
    try:
        check_direction(doses.norms_of(entry)[point].length, tensor_name(point))
    except VectorInvalid as error:
        raise PlanInvalid(error.message, param=f"{where}.id", code=error.code) from None
    threshold = use.above if use.above is not None else use.below
    assert threshold is not None
    below = use.below is not None
    return PlannedGate(entry.digest, point, use.measure, as_float32(threshold), below, use.over)


def find(library: LibraryView, vector_id: str, param: str) -> Entry:
    """The vector that a request names at `param`. Raises `VectorNotFound` and `VectorInvalid`."""
    try:
        entry = library.resolve(vector_id)
        library.check_fits(entry, param)
    except (VectorInvalid, VectorNotFound) as error:
        error.param = param
        raise
    return entry


class GateReceipt(BaseModel):
    """What a gate measured and decided."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="As the request said it.")
    digest: str
    site: str
    layer: int
    measure: str
    above: float | None = None
    below: float | None = None
    over: str
    tokens: int = Field(description="Tokens of the use's positions; not in the header.")
    passed_tokens: int = Field(
        description="Those at which it passed, which are the steered ones; not in the header."
    )
    passed: bool | list[bool | None] | None = Field(
        None,
        description="Of a gate that is decided once: whether it passed; with several answers a "
        "list, in the order of `choices`. Not in the header.",
    )
    value: float | list[float | None] | None = Field(
        None, description="What it measured then, likewise."
    )


def counted(
    gate: Mapping[str, Any], index: int, notes: Mapping[str, WorkerNote], answers: Answers
) -> dict[str, Any]:
    """The receipt of a request's gate number `index`: the `gate` without counts, and the counts of
    `notes`, by the name of their sequence."""
    counts = {name: note.gates[index] for name, note in notes.items() if len(note.gates) > index}
    found = {
        **gate,
        "tokens": sum(count.tokens for count in counts.values()),
        "passed_tokens": sum(count.passed for count in counts.values()),
    }
    if gate["over"] == "token":
        return found
    decided = [GateCount()] * answers.total
    for name, count in counts.items():
        choice = answers.choice_of(name)
        if choice is not None and choice < len(decided):
            decided[choice] = count
    passed, values = [one.decision for one in decided], [one.value for one in decided]
    if answers.total == 1:
        return {**found, "passed": passed[0], "value": values[0]}
    return {**found, "passed": passed, "value": values}
