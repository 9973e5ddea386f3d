"""The receipt as the OpenAPI document describes it. These models validate nothing."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionResponse
from vllm.entrypoints.openai.responses.protocol import ResponsesResponse

from steersman.server.chat.field import AnswerRange, PositionRange
from steersman.server.chat.when.gates import GateReceipt
from steersman.server.chat.when.markers import MarkerRule
from steersman.steering.plan.wire.readouts import Measure, Tokens


class VectorReceipt(BaseModel):
    """What one vector of a request did."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="As the request named it.")
    digest: str = Field(description="Of the content that was used: sha256:<64 hex digits>.")
    site: str | list[str]
    layers: list[int]
    coefficient: float = Field(
        description="The one that was used; of a list, the largest in size; of a dynamic request, "
        "the most that it may be."
    )
    positions: str | PositionRange | AnswerRange | MarkerRule
    operation: str | None = Field(
        None,
        description="What it did to the stream, with its settings beside it; left out for `add`.",
    )
    gate: GateReceipt | None = Field(
        None, description="What its gate measured and decided; left out of a use without one."
    )
    relative_dose: dict[str, float] | None = Field(
        description="By layer: ||c v|| over the median norm of the residual stream there; null: "
        "not known on this server, or for another operation than `add`."
    )
    steered_tokens: int = Field(
        description="Counted where the addition happens, over all answers; not in the header."
    )


class ReadReceipt(BaseModel):
    """What was read of the stream along one vector."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="As the request said it.")
    digest: str = Field(description="Of the content that was used: sha256:<64 hex digits>.")
    site: str | list[str]
    layers: list[int]
    measure: Measure
    tokens: Tokens
    values: dict[str, list[float]] | list[dict[str, list[float]]] = Field(
        description="By layer, a number for each token (by `<site>.<layer>` for a vector of "
        "several sites); with several answers, such an object for each of them."
    )


class Receipt(BaseModel):
    """How a request was steered. The header `Steering-Receipt` has it without counts."""

    model_config = ConfigDict(extra="allow")

    vectors: list[VectorReceipt]
    dynamic: dict[str, Any] | list[dict[str, Any]] | None = Field(
        description="Of a dynamic request: by vector, coefficients and divergences of every token; "
        "a list of that with several answers. In the header: true for such a request."
    )
    steps_per_token: float | None = Field(
        None,
        description="Of a dynamic request: engine steps that a token took, without the first token "
        "of each answer; null: no answer has two tokens. Not in the header.",
    )
    reads: list[ReadReceipt] | None = Field(
        None,
        description="What was read, for each entry of `read`; left out where there is none. In "
        "the header: how many there are.",
    )
    keep_norm: bool = Field(
        False, description="Whether the stream kept its norm; left out where it did not have to."
    )
    source: Literal["request", "model", "key", "server"] = Field(
        description="What said how to steer: the request's own field or header, its model name, or "
        "the default preset of its key or of the server."
    )
    preset: str | None = Field(description="The preset that was used.")
    note: str | None = Field(
        None,
        description="Why the steering could not change what was returned; null where it could.",
    )


Steering = Receipt | None
"""Left out of an answer that is not steered."""


class SteeredChatResponse(ChatCompletionResponse):
    """A chat completion; if it is steered, with its receipt."""

    steering: Steering = None


class SteeredCompletionResponse(CompletionResponse):
    """A completion; if it is steered, with its receipt."""

    steering: Steering = None


class SteeredResponsesResponse(ResponsesResponse):
    """A response; if it is steered, with its receipt."""

    steering: Steering = None


class SteeredMessagesResponse(AnthropicMessagesResponse):
    """A message; if it is steered, with its receipt."""

    steering: Steering = None
