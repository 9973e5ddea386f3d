"""The body of `POST /v1/steering/patch`, read and checked."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from steersman.server.activations.request import MOST_POINTS, TokenRange, points_of
from steersman.server.extraction.samples import read_body
from steersman.vectors.tensors import HookPoint
from steersman.vectors.validation import body_invalid

Direction = Literal["denoising", "noising"]
Text = StrictStr | list[Any]


class PatchRequest(BaseModel):
    """Two prompts of one length that differ in what matters, and two answers.

    Activation patching (Heimersheim and Nanda 2024, "How to use and interpret activation
    patching"): each run puts the stream of one prompt, at one hook point and token, into the other.
    The measure is log p(answers[0]) - log p(answers[1]) behind the prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    clean: Text = Field(description="A plain text, or a chat that ends with a question.")
    corrupted: Text = Field(description="The same with what matters changed, in as many tokens.")
    answers: tuple[StrictStr, StrictStr] = Field(
        description="What the clean prompt makes likely, and what the corrupted one does: each one "
        "token or more, with the space before it, if there is one."
    )
    hook_points: Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_POINTS)] | None = (
        Field(None, description="Such as `attn_out.14`. null: `resid_post` at each layer.")
    )
    tokens: TokenRange | None = Field(
        None,
        description="Which tokens are patched. null: from the first that differs to the "
        "last; those before it have the same stream in both.",
    )
    directions: Annotated[list[Direction], Field(min_length=1, max_length=2)] = Field(
        ["denoising", "noising"],
        description="`denoising` puts the clean stream into the corrupted prompt: what is enough? "
        "`noising` puts the corrupted one into the clean prompt: what is needed?",
    )

    def points(self, num_layers: int) -> tuple[HookPoint, ...]:
        """The hook points, ascending. Raises `VectorInvalid`."""
        if self.hook_points is None:
            return tuple(HookPoint("resid_post", layer) for layer in range(num_layers))
        return points_of(self.hook_points)


def read_request(body: bytes) -> PatchRequest:
    """Read and check the body. Raises `VectorInvalid`. Takes long for a large body, so call it in a
    thread."""
    data = read_body(body, MOST_POINTS)
    try:
        return PatchRequest.model_validate(data)
    except ValidationError as error:
        raise body_invalid(error) from None
