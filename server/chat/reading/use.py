"""One entry of `steering.read`: its schema."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from steersman.steering.plan.wire.readouts import Measure, Tokens

MAX_LAYERS: Final = 4096
_MAX_KEYS: Final = 32
"""Of an object whose known keys are fewer: each that is not known would be an error of its own."""


class Bounded(BaseModel):
    """An object that is refused at once if it has many more keys than a valid one."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_KEYS:
            raise ValueError(f"has {len(data)} keys, of which most are unknown")
        return data


class ReadUse(Bounded):
    """A vector that the stream is compared with, and at which tokens. It changes nothing."""

    id: StrictStr = Field(
        min_length=1,
        max_length=1024,
        description="Name of a vector, or name@<first 12+ hex digits of its digest>. It must have "
        "one direction a layer.",
    )
    layers: list[StrictInt] | None = Field(
        None,
        fail_fast=True,
        min_length=1,
        max_length=MAX_LAYERS,
        description="Layers to read at; default: the vector's own.",
    )
    measure: Measure = Field(
        "projection",
        description="`projection`: the stream along the vector's direction, h . v / ||v||, in the "
        "stream's own units. `cosine`: the cosine of the angle between the two.",
    )
    tokens: Tokens = Field(
        "answer",
        description="`answer`: a value for each new token, from the stream that it is made from "
        "(the first, from the last token of the prompt). `prompt`: one for each token of the "
        "prompt, which is computed and not taken from the prefix cache. `last`: the prompt's last "
        "token.",
    )
