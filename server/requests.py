"""vLLM's request models with one more field; sampling parameters take the plan along."""

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, SkipValidation
from vllm.entrypoints.openai.chat_completion.protocol import (
    BatchChatCompletionRequest,
    ChatCompletionRequest,
)
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from server.steering_field import SteeringField
from steering.plan import PLAN_KEY, Plan

# The schema is pydantic's, the reading is ours (SteeringField.read), so that errors name the key.
Steering = Annotated[
    SkipValidation[SteeringField | None],
    Field(default=None, description="Which vectors steer this request, and how strongly."),
]


class _Steered:
    """What the request models have in common: a plan that their sampling parameters carry."""

    _plan: Plan | None

    def steer(self, plan: Plan) -> None:
        """Have this request's sampling parameters carry `plan`."""
        self._plan = plan

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's sampling parameters, with the plan."""
        params = super().to_sampling_params(*args, **kwargs)  # type: ignore[misc]
        if self._plan is not None:
            params.extra_args = {**(params.extra_args or {}), PLAN_KEY: self._plan.to_json()}
        return params


class SteeredChatRequest(_Steered, ChatCompletionRequest):
    """A chat completion with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)


class SteeredCompletionRequest(_Steered, CompletionRequest):
    """A completion with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)


class SteeredResponsesRequest(_Steered, ResponsesRequest):
    """A response with a `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)


class SteeredBatchRequest(_Steered, BatchChatCompletionRequest):
    """A batch of chats under one `steering` field."""

    steering: Steering
    _plan: Plan | None = PrivateAttr(default=None)

    def to_chat_completion_request(self, messages: Any) -> SteeredChatRequest:
        data = self.model_dump(exclude={"messages", "steering"}, exclude_none=True)
        request = SteeredChatRequest.model_validate({**data, "messages": messages})
        if self._plan is not None:
            request.steer(self._plan)
        return request
