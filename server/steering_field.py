"""The `steering` field of a request: its schema, and reading it with errors that name the key."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from steering.plan import PlanInvalid, check_rule


class PositionRange(BaseModel):
    """Tokens start <= t < stop, counted from the start of the request; negative from the prompt's
    end."""

    model_config = ConfigDict(extra="forbid")

    start: StrictInt
    stop: StrictInt


class VectorUse(BaseModel):
    """One vector of a request, and how to use it."""

    model_config = ConfigDict(extra="forbid")

    id: StrictStr = Field(
        min_length=1, description="Name of a vector, or name@<first 12+ hex digits of its digest>."
    )
    coefficient: StrictFloat | None = Field(
        None, description="How strongly; default: the vector's own. `scale` is an alias."
    )
    layers: list[StrictInt] | None = Field(
        None, min_length=1, description="Layers to add at; default: the vector's own."
    )
    positions: Literal["generation", "after_prompt", "prompt", "all"] | PositionRange | None = (
        Field(None, description="Tokens to steer; default: the vector's own, else `generation`.")
    )

    @model_validator(mode="before")
    @classmethod
    def _scale_is_coefficient(cls, data: Any) -> Any:
        if isinstance(data, dict) and "scale" in data:
            if "coefficient" in data:
                raise ValueError("give `coefficient` or its alias `scale`, not both")
            data = dict(data)
            data["coefficient"] = data.pop("scale")
        return data

    @field_validator("coefficient")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @field_validator("positions", mode="before")
    @classmethod
    def _known_rule(cls, value: Any) -> Any:
        if value is not None:
            try:
                check_rule(value)
            except PlanInvalid as error:
                raise ValueError(error.message) from error
        return value


class SteeringField(BaseModel):
    """Which vectors steer this request. See `GET /v1/steering/vectors` for what there is."""

    model_config = ConfigDict(extra="forbid")

    vectors: Annotated[
        list[VectorUse] | dict[str, StrictFloat],
        Field(
            min_length=1,
            description='A list of uses, or the short form {"cheerful": 1.5, "formal": -0.5}.',
        ),
    ]
    dynamic: None = Field(None, description="Reserved for dynamic composition; must be null.")

    @field_validator("vectors", mode="before")
    @classmethod
    def _long_form(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return [{"id": name, "coefficient": c} for name, c in value.items()]
        return value

    @field_validator("dynamic", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("dynamic composition is not available in this version; leave it out")

    @property
    def uses(self) -> list[VectorUse]:
        """The vectors in their long form."""
        if isinstance(self.vectors, dict):
            raise TypeError("a SteeringField is made by `read`, which normalises its vectors")
        return self.vectors

    @classmethod
    def read(cls, value: Any) -> Self:
        """Validate a request's `steering` value; raises `PlanInvalid` naming the offending key."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise _explain(error) from error


_CODES = {"extra_forbidden": "unknown_field", "missing": "missing_field"}
_WORDS = {
    "extra_forbidden": "unknown field; the `steering` schema in /openapi.json lists the known ones",
    "missing": "this key is needed",
    "too_short": "must not be empty; name at least one, or leave the key out",
    "string_too_short": "must not be empty",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "model_type": "must be an object",
}
"""Our words for pydantic's kinds of error."""


def _explain(error: ValidationError) -> PlanInvalid:
    """The first problem that concerns the form the client used, in words and with its path."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    # `vectors` is normalised to a list, so what pydantic says about the short form is noise.
    mine = [p for p in problems if not any(str(s).startswith("dict[") for s in p["loc"])]
    problem = (mine or problems)[0]
    path = "steering"
    limit = 128  # a client's own key may be of any length
    for segment in problem["loc"]:
        if isinstance(segment, int):
            path += f"[{segment}]"
        elif "[" not in segment and segment not in ("PositionRange", "literal"):
            path += f".{segment[:limit]}"
    words = _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    code = _CODES.get(problem["type"], "invalid_steering")
    return PlanInvalid(f"{path}: {words}", param=path, code=code)
