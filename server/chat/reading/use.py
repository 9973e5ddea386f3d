"""One entry of `steering.read`: its schema."""

from typing import Final

from pydantic import Field, StrictInt, StrictStr

from steersman.server.chat.when.bounded import Bounded
from steersman.steering.plan.wire.readouts import Measure, Tokens

MAX_LAYERS: Final = 4096


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
