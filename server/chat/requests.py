"""vLLM's request models with one more field; their sampling parameters carry the plan."""

import functools
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PrivateAttr, SkipValidation
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import (  # type: ignore[attr-defined]
    BatchChatCompletionRequest,
    ChatCompletionRequest,
    StreamOptions,
)
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from steersman.server.chat.field import SteeringField
from steersman.server.chat.sse import Asked
from steersman.server.chat.trace import Answers
from steersman.steering.plan import PLAN_KEY, Plan

# The schema is pydantic's, the reading is ours (SteeringField.read), so that errors name the key.
Steering = Annotated[
    SkipValidation[SteeringField | None],
    Field(default=None, description="Which vectors steer this request, and how strongly."),
]


class _Steered:
    """What the request models have in common: a plan that their sampling parameters carry."""

    _plan: Plan | None

    def steer(self, plan: Plan) -> None:
        """Put `plan` into this request's sampling parameters."""
        self._plan = plan

    @property
    def answers(self) -> Answers:
        """The sequences that answer this request."""
        return Answers()

    @property
    def sampled(self) -> int | None:
        """The most new tokens of an answer; None if the request sets no limit."""
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            # Not as an attribute: reading one that is deprecated warns.
            if (most := vars(self).get(name)) is not None:
                return int(most)
        return None

    def count_tokens(self, *, forced: bool) -> Asked | None:
        """Make a stream of this request count its tokens in every chunk. Returns the counts that
        the client `Asked` for; None if the request makes no such stream. `forced`: the server sends
        total counts to every client."""
        return None

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's sampling parameters, with the plan."""
        params = super().to_sampling_params(*args, **kwargs)  # type: ignore[misc]
        if self._plan is not None:
            params.extra_args = {**(params.extra_args or {}), PLAN_KEY: self._plan.to_json()}
        return params


class _Streamed(_Steered):
    """A request whose stream can count tokens."""

    if TYPE_CHECKING:  # They are vLLM's fields.
        stream: bool | None
        stream_options: StreamOptions | None

    def count_tokens(self, *, forced: bool) -> Asked | None:
        if not self.stream:
            return None
        if forced:
            return Asked(total=True, each=True)
        options = self.stream_options or StreamOptions()
        total = bool(options.include_usage)
        self.stream_options = StreamOptions(include_usage=True, continuous_usage_stats=True)
        return Asked(total, each=total and bool(options.continuous_usage_stats))


class SteeredChatRequest(_Streamed, ChatCompletionRequest):
    """A chat completion with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)

    @property
    def answers(self) -> Answers:
        return Answers(max(1, self.n or 1))


class SteeredCompletionRequest(_Streamed, CompletionRequest):
    """A completion with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)

    @property
    def answers(self) -> Answers:
        prompt = self.prompt
        # A list of numbers is one prompt, of tokens.
        one = not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int)
        return Answers(max(1, self.n), 1 if one else len(prompt or ()))


class SteeredResponsesRequest(_Steered, ResponsesRequest):
    """A response with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)


class SteeredMessagesRequest(_Steered, AnthropicMessagesRequest):
    """A message in Anthropic's form with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)

    def carried_by(self, request: ChatCompletionRequest) -> ChatCompletionRequest:
        """`request`, which vLLM has made of this one, with this one's plan."""
        if self._plan is None:
            return request
        made = SteeredChatRequest.model_construct(request.model_fields_set, **vars(request))
        made.steer(self._plan)
        return made


class SteeredBatchRequest(_Steered, BatchChatCompletionRequest):
    """A batch of chats under one `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)

    @property
    def answers(self) -> Answers:
        return Answers(prompts=len(self.messages))

    def to_chat_completion_request(self, messages: Any) -> SteeredChatRequest:
        data = self.model_dump(exclude={"messages", "steering"}, exclude_none=True)
        request = SteeredChatRequest.model_validate({**data, "messages": messages})
        if self._plan is not None:
            request.steer(self._plan)
        return request


def carry_plans(handler: Any) -> None:
    """Have the chat request that vLLM's `handler` of `/v1/messages` makes of a message carry the
    message's plan. Idempotent."""
    original = getattr(handler, "to_chat_completion_request", None)
    if original is None or hasattr(original, "__steersman__"):
        return

    @functools.wraps(original)
    def to_chat_completion_request(request: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(request, *args, **kwargs)
        return request.carried_by(made) if isinstance(request, SteeredMessagesRequest) else made

    to_chat_completion_request.__steersman__ = True  # type: ignore[attr-defined]
    handler.to_chat_completion_request = to_chat_completion_request
