"""The `steering` field of a request: its schema, and reading it with errors that name the key.

`steersman.server.chat.strength` checks keys that depend on each other.
"""

import math
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from steersman.server.chat.reading.use import MAX_LAYERS, ReadUse
from steersman.server.chat.when.bounded import Bounded, finite_setting, is_finite
from steersman.server.chat.when.gates import GateUse
from steersman.server.chat.when.markers import MarkerRule, is_text
from steersman.steering.plan import MAX_SCHEDULE, PlanInvalid, check_rule
from steersman.steering.plan.dynamic import MAX_EVERY
from steersman.steering.plan.wire.readouts import MAX_READS
from steersman.vectors.operation import SETTINGS, Operation, OperationName, Unit
from steersman.vectors.validation import Location, first_problem, path_of_key

SCHEDULES: Final = ("constant", "start", "diminishing")
MAX_USES: Final = 4096
"""Most vectors in a field that is read; `max_vectors` is what a request may name."""
BROUGHT: Final = "data:"
"""The id of a use whose vector is in the request; the beginning of its digest follows."""
_SHAPES: Final = ("model_type", "list_type", "missing", "too_short", "dict_type")
_EXAMPLES: Final = {
    "steering": '{"vectors": {"cheerful": 1.5}}',
    "steering.vectors": '{"cheerful": 1.5}, or [{"id": "cheerful"}]',
    "steering.vectors[]": '{"id": "cheerful"}',
}
"""For clients that send something of another shape altogether."""
_MEMBERS: Final = ("PositionRange", "AnswerRange", "MarkerRule", "literal")
"""Of unions, as pydantic names them in the places of errors."""
_OF_VECTORS: Final = ("dynamic", "keep_norm", "schedule", "over", "after")
"""Keys of the field that say how its vectors steer."""
_CODES: Final = {"extra_forbidden": "unknown_field", "missing": "missing_field"}


def _show_use(schema: dict[str, Any]) -> None:
    """Put into the schema what pydantic leaves out: the alias `scale`, and that one of `id` and
    `data` is there. With `not`: generators of clients take `oneOf` for classes of their own."""
    schema["required"].remove("id")
    if not schema["required"]:
        del schema["required"]
    schema["properties"]["id"]["type"] = ["string", "null"]
    number = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    schema["properties"]["scale"] = {**number, "description": "An alias of `coefficient`."}
    given = {"required": ["id", "data"], **_both("string")}
    schema["not"] = {"anyOf": [{"required": ["coefficient", "scale"]}, given, _both("null")]}


def _both(kind: str) -> dict[str, Any]:
    """A schema that allows `id` and `data` to be of this type only, where they are there."""
    return {"properties": {"id": {"type": kind}, "data": {"type": kind}}}


def _show_needed(schema: dict[str, Any]) -> None:
    """Put into the schema that `vectors` may be left out beside `read`, with the keys that say how
    they steer."""
    alone: dict[str, Any] = {key: {"type": "null"} for key in _OF_VECTORS}
    alone |= {"keep_norm": {"const": False}, "read": {"type": "array"}}
    reads = {"required": ["read"], "properties": alone}
    schema["not"] = {"allOf": [{"not": {"required": ["vectors"]}}, {"not": reads}]}


def _show_lengths(most: int) -> Any:
    """Move the lengths of lists and objects in the schema to the members of the union that they
    limit."""

    def show(schema: dict[str, Any]) -> None:
        for key in ("minLength", "maxLength"):
            schema.pop(key, None)
        for part in schema.get("anyOf", ()):
            if part.get("type") == "array":
                part |= {"minItems": 1, "maxItems": most}
            if part.get("type") == "object":
                part |= {"minProperties": 1, "maxProperties": most}

    return show


def _known_schedule(value: Any) -> Any:
    """Validate a schedule by hand, because pydantic reports one error for each member of a
    union."""
    if value is None or (isinstance(value, str) and value in SCHEDULES):
        return value
    if not isinstance(value, list):
        raise ValueError(f"must be one of {', '.join(SCHEDULES)}, or a list of coefficients")
    if not 1 <= len(value) <= MAX_SCHEDULE:
        raise ValueError(f"must have 1 to {MAX_SCHEDULE} coefficients, not {len(value)}")
    for n, one in enumerate(value):
        if not is_finite(one):
            raise ValueError(f"number {n} of its coefficients must be a finite number")
    return value


Schedule = Annotated[
    Literal["constant", "start", "diminishing"] | list[StrictFloat] | None,
    BeforeValidator(_known_schedule),
    Field(
        json_schema_extra=_show_lengths(MAX_SCHEDULE),
        description="How the coefficient goes from token to token: `constant` (the default); "
        "`start`: the first steered token only; `diminishing`: decreasing to 0 over `over` "
        "tokens; or "
        f"a list of 1 to {MAX_SCHEDULE} coefficients, one for each steered token, in "
        "place of `coefficient`.",
    ),
]
Over = Annotated[
    StrictInt | None,
    Field(
        ge=1,
        le=MAX_SCHEDULE,
        description="Steered tokens of a `diminishing` schedule, which needs it: the i-th, counted "
        "from 0, gets coefficient * (1 - i / over).",
    ),
]
After = Annotated[
    Literal["stop", "hold"] | None,
    Field(
        description="What happens after the last step of a vector that has a tensor for "
        "each generation step, or after the last of a list of coefficients: `stop` steering (the "
        "default) or `hold` the last."
    ),
]


Setting = Annotated[StrictFloat | None, AfterValidator(finite_setting)]
"""A setting of an operation."""


def _with_id(use: Any) -> Any:
    """`use`; with `BROUGHT` for an id if it brings its vector with it."""
    if not isinstance(use, dict) or use.get("data") is None:
        return use
    if use.get("id") is not None:
        raise ValueError("give `id` or `data`, not both")
    return {**use, "id": BROUGHT}


class PositionRange(Bounded):
    """Tokens start <= t < stop, counted from the start of the request; negative from the prompt's
    end."""

    start: StrictInt
    stop: StrictInt


class AnswerRange(Bounded):
    """Tokens start <= t < stop of the answer, counted from its first token; an end may be left
    out."""

    start: StrictInt | None = Field(None, ge=0)
    stop: StrictInt | None = Field(None, ge=1)
    of: Literal["answer"]


class PropertyComposition(Bounded):
    """Settings of one vector that replace those of the request's `dynamic`."""

    start: StrictFloat | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Coefficient of this vector in its companion, where it steers alone.",
    )
    max: StrictFloat | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="The same as `coefficient`: the most that this vector may get. Give one of "
        "them.",
    )
    top_p: StrictFloat | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Probability mass of the likeliest tokens that are compared for this vector.",
    )


class VectorUse(Bounded):
    """One vector of a request, and how to use it."""

    model_config = ConfigDict(json_schema_extra=_show_use)

    id: StrictStr = Field(
        min_length=1,
        max_length=1024,
        description="Name of a vector, or name@<first 12+ hex digits of its digest>.",
    )
    data: StrictStr | None = Field(
        None,
        description="The vector itself in place of an `id`: its safetensors file in base64, of at "
        "most `max_inline_bytes`. It is kept for requests that send it again, and never listed.",
    )
    coefficient: StrictFloat | None = Field(
        None,
        description="How strongly; default: the vector's own. `scale` is an alias. With `dynamic`: "
        "the most that this vector may get, 0 or more; default: `dynamic.max`.",
    )
    layers: list[StrictInt] | None = Field(
        None,
        fail_fast=True,
        min_length=1,
        max_length=MAX_LAYERS,
        description="Layers to add at; default: the vector's own.",
    )
    positions: (
        Literal["generation", "after_prompt", "prompt", "all"]
        | PositionRange
        | AnswerRange
        | MarkerRule
        | None
    ) = Field(
        None,
        description="Tokens to steer; default: the vector's own, else `generation`. With "
        "`dynamic`: `generation`.",
    )
    operation: OperationName | None = Field(
        None,
        description="What the vector does to the stream; default: the vector's own, else `add`. "
        "`project` removes its component (coefficient 1), `clamp` holds it between `min` and "
        "`max`, `replace` puts the vector in the stream's place; `feature`, `transport` and "
        "`rotate` need a vector that is made for them.",
    )
    min: Setting = Field(None, description="`clamp`: the least that the stream has along it.")
    max: Setting = Field(None, description="`clamp`: the most that the stream has along it.")
    unit: Unit | None = Field(
        None,
        description="What `min` and `max` are measured in: the stream's own units, or its median "
        "norm at each layer.",
    )
    value: Setting = Field(None, description="`feature`: what its activation becomes.")
    multiply: Setting = Field(None, description="`feature`: what multiplies its activation.")
    angle: Setting = Field(None, description="`rotate`: degrees, from b1 to b2.")
    adaptive: StrictBool | None = Field(
        None, description="`rotate`: only where the stream has a positive part along b1."
    )
    schedule: Schedule = None
    over: Over = None
    after: After = None
    gate: GateUse | None = Field(
        None, description="Steer only where this passes; default: at all tokens of `positions`."
    )
    dynamic: PropertyComposition | None = Field(
        None, description="Overrides the request's `dynamic` for this vector."
    )

    def used_as(self, own: Operation) -> Operation:
        """The operation of this use of a vector whose own is `own`. Raises `VectorInvalid`, whose
        `param` is the key."""
        settings = {key: getattr(self, key) for key in SETTINGS}
        return own.used_as(self.operation, settings)

    @model_validator(mode="before")
    @classmethod
    def _scale_is_coefficient(cls, data: Any) -> Any:
        if isinstance(data, dict) and "scale" in data:
            if "coefficient" in data:
                raise ValueError("give `coefficient` or its alias `scale`, not both")
            data = dict(data)
            data["coefficient"] = data.pop("scale")
        return _with_id(data)

    @field_validator("coefficient")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @field_validator("positions", mode="before")
    @classmethod
    def _known_rule(cls, value: Any) -> Any:
        if value is not None and not is_text(value):
            try:
                check_rule(value)
            except PlanInvalid as error:
                raise ValueError(error.message) from error
        return value


class DynamicComposition(Bounded):
    """Dynamic Activation Composition (Scalena and others, 2024): each of 1 to 8 vectors gets, at
    every new token, a coefficient that is computed from how much the vector changes the next-token
    distribution."""

    start: StrictFloat = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="Coefficient of each vector in its companion, where it steers alone.",
    )
    max: StrictFloat = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="The most that a vector without a `coefficient` of its own may get.",
    )
    top_p: StrictFloat = Field(
        0.95,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Probability mass of the likeliest tokens that are compared.",
    )
    kl: Literal["mean", "sum"] = Field(
        "mean",
        description="The divergence divided by the number of tokens compared, as in the authors' "
        "code, or the plain one, as in their paper.",
    )
    every: StrictInt = Field(
        1,
        ge=1,
        le=MAX_EVERY,
        description="Compute the coefficients for one in this many new tokens, and hold "
        "them for the others: an approximation of the method, which computes them for each.",
    )


class SteeringField(Bounded):
    """Which vectors steer this request. `GET /v1/steering/vectors` lists the vectors that there
    are.

    `schedule`, `over` and `after` apply to all vectors; the keys of a single vector override them.
    """

    model_config = ConfigDict(json_schema_extra=_show_needed)

    vectors: Annotated[
        list[VectorUse] | dict[str, StrictFloat | None],
        Field(
            min_length=1,
            max_length=MAX_USES,
            json_schema_extra=_show_lengths(MAX_USES),
            description='A list of uses, or the short form {"cheerful": 1.5, "formal": -0.5}. It '
            "may be left out beside `read`.",
        ),
    ] = Field(default_factory=list)
    dynamic: DynamicComposition | None = Field(
        None,
        description="Compute the coefficients anew at every token; null: use those of the request.",
    )
    keep_norm: StrictBool = Field(
        False,
        description="After all changes at a hook point, the stream has the norm that it had.",
    )
    schedule: Schedule = None
    over: Over = None
    after: After = None
    reads: list[ReadUse] | None = Field(
        None,
        alias="read",
        fail_fast=True,
        min_length=1,
        max_length=MAX_READS,
        description="Vectors that the stream is compared with: one number a token, in the "
        "receipt, and in a stream on the chunk of its token. With `vectors` or alone.",
    )

    @field_validator("vectors", mode="before")
    @classmethod
    def _long_form(cls, value: Any) -> Any:
        if isinstance(value, dict | list) and len(value) > MAX_USES:
            raise ValueError(f"must have at most {MAX_USES} entries, not {len(value)}")
        return long_form(value)

    @property
    def uses(self) -> list[VectorUse]:
        """The vectors in their long form."""
        if isinstance(self.vectors, dict):
            raise TypeError("a SteeringField is made by `read`, which normalises its vectors")
        return self.vectors

    @classmethod
    def read(cls, value: Any) -> Self:
        """Validate a request's `steering` value. Raises `PlanInvalid` with the path of the wrong
        key.

            SteeringField.read({"vectors": {"cheerful": 1.5}}).uses[0].id    # "cheerful"
        """
        if isinstance(value, dict):
            _check_vectors(value)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise _invalid(error) from error


def long_form(vectors: Any) -> Any:
    """The short form `{"cheerful": 1.5, "formal": null}` as a list of uses; others as they are."""
    if not isinstance(vectors, dict):
        return vectors
    return [
        {"id": name} | ({} if coefficient is None else {"coefficient": coefficient})
        for name, coefficient in vectors.items()
    ]


def _check_vectors(value: dict[str, Any]) -> None:
    """Raise `PlanInvalid` for a field without `vectors` that needs them."""
    if "vectors" in value or len(value) > len(SteeringField.model_fields):
        return
    if value.get("read") is None:
        path = "steering.vectors"
        said = f"{path}: this key is needed; a right one is {_EXAMPLES[path]}"
        raise PlanInvalid(said, param=path, code="missing_field")
    for key in _OF_VECTORS:
        if value.get(key) not in (None, False):
            raise PlanInvalid(
                f"steering.{key}: it says how `vectors` steer, and there are none; leave it out",
                param=f"steering.{key}",
            )


def _invalid(error: ValidationError) -> PlanInvalid:
    """The first error about the form that the client used, in words and with its path."""
    problem = first_problem(error, _is_of_the_form_used)
    steps = [
        step
        for step in problem.location
        if isinstance(step, int) or ("[" not in step and step not in _MEMBERS)
    ]
    path, said = path_of_key(tuple(steps), "steering"), problem.words
    if problem.is_unknown_field:
        said += "; the `steering` schema in /openapi.json lists the known ones"
    example = _EXAMPLES.get(re.sub(r"\[[0-9]+\]", "[]", path))
    if example is not None and problem.kind in _SHAPES:
        said += f"; a right one is {example}"
    code = _CODES.get(problem.kind, "invalid_steering")
    return PlanInvalid(f"{path}: {said}", param=path, code=code)


def _is_of_the_form_used(location: Location) -> bool:
    """Whether an error is about the form that the client used. `vectors` is normalised to a list,
    so pydantic's errors about the short form do not matter."""
    return not any(str(step).startswith("dict[") for step in location)
