"""The OpenAI routes that steer, by field or by model name: vLLM's own handlers, a plan before, a
receipt after."""

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Message
from vllm.entrypoints.anthropic import api_router as vllm_messages
from vllm.entrypoints.anthropic.protocol import AnthropicErrorResponse
from vllm.entrypoints.openai.chat_completion import api_router as vllm_chat
from vllm.entrypoints.openai.completion import api_router as vllm_completion
from vllm.entrypoints.openai.responses import api_router as vllm_responses
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation

from steersman.server.chat.header_field import HEADER
from steersman.server.chat.receipt import with_receipt
from steersman.server.chat.receipt_schema import (
    SteeredChatResponse,
    SteeredCompletionResponse,
    SteeredMessagesResponse,
    SteeredResponsesResponse,
)
from steersman.server.chat.requests import (
    SteeredBatchRequest,
    SteeredChatRequest,
    SteeredCompletionRequest,
    SteeredMessagesRequest,
    SteeredResponsesRequest,
    carry_plans,
)
from steersman.server.chat.sse import Keep, first_chunk_error, traced
from steersman.server.chat.steered_request import SteeredRequest
from steersman.server.dependencies import CallersPresets
from steersman.server.errors import NotAllowed
from steersman.server.library.schemas import ErrorEnvelope
from steersman.server.metrics import Outcome
from steersman.server.middleware.refuse_ignored import FROM_HEADER
from steersman.server.presets.choose import Chosen, choose
from steersman.server.presets.models import answer_as, list_models, served_names
from steersman.server.presets.view import PresetView
from steersman.server.routing import path_of
from steersman.steering.plan import PlanInvalid
from steersman.steering.plan.intent import FIELD
from steersman.vectors.errors import SteersmanError

Handler = Callable[[Any, Request], Awaitable[Response | None]]
"""What a handler returns when its client has gone differs among versions of vLLM."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    **{code: {"model": ErrorEnvelope} for code in (400, 401, 403, 408, 413, 429, 503)},
    **{code: {"model": ErrorResponse} for code in (404, 500, 501)},
}


_ANTHROPIC_ERRORS = {code: {"model": AnthropicErrorResponse} for code in _ERRORS}


def _options(
    answer: type[BaseModel], errors: dict[int | str, dict[str, Any]] = _ERRORS
) -> dict[str, Any]:
    return {
        "dependencies": [Depends(validate_json_request)],
        "responses": {
            200: {"model": answer, "content": {"text/event-stream": {}}, "description": "OK"},
            **errors,
        },
        "response_model": None,
    }


router = APIRouter()


@router.post("/v1/chat/completions", **_options(SteeredChatResponse))
async def create_chat_completion(
    request: SteeredChatRequest, raw_request: Request, presets: CallersPresets
) -> Any:
    """A chat completion, steered if the request says so."""
    return await _steered(request, raw_request, presets, vllm_chat.create_chat_completion)


@router.post("/v1/chat/completions/batch", **_options(SteeredChatResponse))
async def create_batch_chat_completion(
    request: SteeredBatchRequest, raw_request: Request, presets: CallersPresets
) -> Any:
    """Several chats in one request, all steered alike if the request says so."""
    return await _steered(request, raw_request, presets, vllm_chat.create_batch_chat_completion)


@router.post("/v1/completions", **_options(SteeredCompletionResponse))
async def create_completion(
    request: SteeredCompletionRequest, raw_request: Request, presets: CallersPresets
) -> Any:
    """A completion, steered if the request says so."""
    return await _steered(request, raw_request, presets, vllm_completion.create_completion)


@router.post("/v1/responses", **_options(SteeredResponsesResponse))
async def create_responses(
    request: SteeredResponsesRequest, raw_request: Request, presets: CallersPresets
) -> Any:
    """A response, steered if the request says so."""
    return await _steered(
        request, raw_request, presets, vllm_responses.create_responses, _kept(raw_request)
    )


@router.post("/v1/messages", **_options(SteeredMessagesResponse, _ANTHROPIC_ERRORS))
async def create_messages(
    request: SteeredMessagesRequest, raw_request: Request, presets: CallersPresets
) -> Any:
    """A message in Anthropic's form, steered if the request says so."""
    carry_plans(vllm_messages.messages(raw_request))
    return await _steered(request, raw_request, presets, vllm_messages.create_messages)


@router.get("/v1/models", response_model=None)
async def show_available_models(raw_request: Request, presets: CallersPresets) -> Any:
    """The models: what vLLM serves, and each preset of them as `<model>:<preset>`."""
    return await list_models(raw_request, presets)


def _kept(raw_request: Request) -> Keep:
    """A function that puts a receipt on a response that vLLM stores, so that it is there when the
    response is retrieved."""
    stored = getattr(vllm_responses.responses(raw_request), "response_store", {})

    def keep(response_id: str, receipt: dict[str, Any]) -> None:
        if (response := stored.get(response_id)) is not None:
            response.steering = receipt

    return keep


async def _steered(
    request: Any,
    raw_request: Request,
    presets: PresetView,
    handler: Handler,
    keep: Keep | None = None,
) -> Response | None:
    state = raw_request.app.state
    try:
        chosen = await chosen_for(request, state.openai_serving_models, presets)
    except NotAllowed as error:
        if raw_request.scope.get(FROM_HEADER) and error.param == FIELD:
            raise NotAllowed(
                error.message.replace(repr(FIELD), HEADER), param=HEADER, code=error.code
            ) from None
        raise
    if chosen.steering is None:
        return await handler(request, raw_request)
    refuse_unsteerable(request, chosen)
    client = _ListenedRequest(raw_request)
    steered = await _begun(request, raw_request, chosen)
    request.steer(steered.plan)
    asked = None
    if steered.trace is not None or steered.reads is not None:
        asked = request.count_tokens(forced=state.args.enable_force_include_usage)
    try:
        response = await handler(request, client)
        if isinstance(response, StreamingResponse):
            response = await _look(response, client)
        if response is None or (client.gone and not isinstance(response, StreamingResponse)):
            steered.close(Outcome.ABORTED)
            return Response()
        if isinstance(response, StreamingResponse) and asked:
            response.body_iterator = traced(response.body_iterator, steered.part, asked)
        if refusal := steered.refusal():
            raise refusal
    except BaseException as error:
        refusal = steered.refusal()
        left = client.gone or isinstance(error, CancelledError)
        steered.close(Outcome.ABORTED if left else Outcome.FAILED)
        if refusal is not None:
            raise refusal from None
        if isinstance(error.__cause__, PlanInvalid):
            raise error.__cause__ from None
        raise
    return with_receipt(response, steered, keep, path_of(raw_request.scope))


async def chosen_for(request: Any, models: Any, presets: PresetView) -> Chosen:
    """How `request` is steered. It asks for a model that vLLM's `models` serves from here on, and
    the answer says the name that it asked for. Raises what `choose` raises."""
    asked, given = request.model, "steering" in request.model_fields_set
    served = served_names(models)
    chosen = await choose(request.steering, asked, given=given, served=served, presets=presets)
    if chosen.model != asked:
        request.model = chosen.model
        answer_as(models, asked)
    return chosen


async def _begun(request: Any, raw_request: Request, chosen: Chosen) -> SteeredRequest:
    """The steered request of `request`. An error in the header's value names the header."""
    try:
        return await SteeredRequest.begin(
            chosen.context, chosen.steering, request.answers, request.sampled, chosen.origin
        )
    except (PlanInvalid, SteersmanError) as error:
        if raw_request.scope.get(FROM_HEADER):
            error.param = HEADER
        raise chosen.explained(error) from None


class _ListenedRequest(Request):
    """A request that records whether its client has disconnected."""

    gone = False
    """Whether a disconnect was received. vLLM receives while a handler runs."""

    def __init__(self, request: Request) -> None:
        async def receive() -> Message:
            message = await request.receive()
            self.gone = self.gone or message["type"] == "http.disconnect"
            return message

        super().__init__(request.scope, receive)


@with_cancellation  # type: ignore[untyped-decorator]
async def _look(response: StreamingResponse, raw_request: Request) -> Response | None:
    """`response` once its first chunk is known; anything else if the client disconnects before."""
    return await first_chunk_error(response)


def refuse_unsteerable(request: Any, chosen: Chosen) -> None:
    """Raise `PlanInvalid` for options of a request under which the plan would not reach the
    engine. `chosen`: what steers it."""
    if getattr(request, "use_beam_search", False):
        raise chosen.blamed(
            PlanInvalid(
                "steering does not work with use_beam_search: leave one of the two out",
                param="use_beam_search",
                code="not_supported",
            )
        )
    if getattr(request, "background", False):
        raise chosen.blamed(
            PlanInvalid(
                "steering does not work with background responses: set background to false",
                param="background",
                code="not_supported",
            )
        )
