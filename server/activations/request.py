"""The body of `POST /v1/steering/activations`, read and checked."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from steersman.server.extraction.samples import read_body
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.tensors import HookPoint, parse_tensor_name
from steersman.vectors.validation import body_invalid

MOST_POINTS: Final = 4096


class TokenRange(BaseModel):
    """Tokens start <= t < stop of each text; negative counts from its end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: StrictInt
    stop: StrictInt | None = Field(None, description="null: to the end of the text.")


class ActivationsRequest(BaseModel):
    """Texts whose residual stream is wanted, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: Annotated[list[StrictStr | list[Any]], Field(min_length=1)] = Field(
        description="Each a plain text, or a chat: a list of messages with role and content."
    )
    hook_points: Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_POINTS)] = Field(
        description="Such as `resid_post.14`: a site of the model, and a layer."
    )
    tokens: Literal["all", "last", "mean"] | TokenRange = Field(
        "last",
        description="`last`: each text's last token. `mean`: the mean over its tokens, as an "
        "extraction reads it: without the first of a plain text, and of a chat that ends with an "
        "answer over that answer. `all`: each token. Or a range.",
    )

    @property
    def each(self) -> bool:
        """Whether tokens come one by one."""
        return self.tokens not in ("last", "mean")

    def points(self) -> tuple[HookPoint, ...]:
        """The hook points, ascending. Raises `VectorInvalid`."""
        return points_of(self.hook_points)


def points_of(names: Sequence[str]) -> tuple[HookPoint, ...]:
    """The hook points that the field `hook_points` names, ascending. Raises `VectorInvalid`."""
    found = set()
    for n, name in enumerate(names):
        try:
            found.add(parse_tensor_name(name))
        except VectorInvalid as error:
            error.param = f"hook_points[{n}]"
            raise
    return tuple(sorted(found))


def read_request(body: bytes, most_texts: int) -> ActivationsRequest:
    """Read and check the body. Raises `VectorInvalid`. Takes long for a large body, so call it in a
    thread."""
    data = read_body(body, most_texts)
    texts = data.get("texts") if isinstance(data, dict) else None
    if isinstance(texts, list) and len(texts) > most_texts:
        raise VectorInvalid(
            f"there are {len(texts)} texts, at most {most_texts} are allowed "
            "(--max-extract-rows); send fewer",
            param="texts",
            code="too_many_rows",
        )
    try:
        return ActivationsRequest.model_validate(data)
    except ValidationError as error:
        raise body_invalid(error) from None
