"""Steered lines of `vllm run-batch`: a plan before vLLM's handler, a receipt after it.

The command has no keys: it may use every vector of the library.
"""

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse

from steersman.server.auth.permissions import OPEN
from steersman.server.chat.requests import SteeredChatRequest
from steersman.server.chat.routes import chosen_for, refuse_unsteerable
from steersman.server.chat.sse import LOST
from steersman.server.chat.steered_request import SteeredRequest
from steersman.server.drain import Drain
from steersman.server.error_response import envelope, status_of
from steersman.server.errors import BankFull, LibrarySlow, NotSteered, Unsaid
from steersman.server.metrics import Outcome
from steersman.server.presets.view import PresetView
from steersman.server.start.opening import open_state
from steersman.steering.plan import PlanInvalid, Settings
from steersman.vectors.errors import SteersmanError

Serve = Callable[[Any], Awaitable[Any]]
"""vLLM's handler: a request's body -> its response, or an error response."""

RETRY_S: Final = 0.5
"""How long a line waits that found the vector bank full."""


class BatchLines:
    """Answers the steered lines of one batch. The library is opened at the first such line."""

    chat_request = SteeredChatRequest
    """What the body of a chat's line is read as."""

    def __init__(self, engine_client: Any, args: Namespace) -> None:
        self._engine_client = engine_client
        self._args = args
        self._opening: asyncio.Task[PresetView] | None = None
        self._running = 0

    def concerns(self, body: SteeredChatRequest) -> bool:
        """Whether `body` may be steered: by its field, its model name or the default preset."""
        named = isinstance(body.model, str) and ":" in body.model
        return body.steering is not None or named or self.default_preset is not None

    @property
    def default_preset(self) -> str | None:
        """The preset of lines that do not say how they are steered."""
        return Settings.read(self._engine_client.vllm_config.additional_config).default_preset

    async def answer(self, serve: Serve, body: SteeredChatRequest) -> Any:
        """vLLM's response to `body`, if it is steered with the receipt, or its error response. If
        the bank is full, a line waits until others have ended, because vLLM submits all lines at
        once. `serve`: a method of vLLM's `OpenAIServingChat`."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        presets = await asyncio.shield(self._opening)
        while True:
            self._running += 1
            try:
                return await _answered(presets, serve, body)
            except BankFull as error:
                if self._running == 1:
                    return _error(error)
            except (PlanInvalid, SteersmanError, LibrarySlow, NotSteered) as error:
                return _error(error)
            finally:
                self._running -= 1
            await asyncio.sleep(RETRY_S)

    async def _open(self) -> PresetView:
        opened = await open_state(self._engine_client, self._args, Drain())
        return opened.presets_for(OPEN)


async def _answered(presets: PresetView, serve: Any, body: SteeredChatRequest) -> Any:
    chosen = await chosen_for(body, serve.__self__.models, presets)
    if chosen.steering is None:
        return await serve(body)
    if body.stream:
        raise PlanInvalid("lines of a batch are not streamed: leave `stream` out", param="stream")
    refuse_unsteerable(body, chosen)
    try:
        steered = await SteeredRequest.begin(
            chosen.context, chosen.steering, body.answers, body.sampled, chosen.origin
        )
    except (PlanInvalid, SteersmanError) as error:
        raise chosen.explained(error) from None
    outcome = Outcome.FAILED
    try:
        body.steer(steered.plan)
        try:
            response = await serve(body)
        except Exception as error:
            cause = steered.refusal() or error.__cause__
            if isinstance(cause, PlanInvalid | BankFull | LibrarySlow | NotSteered):
                raise cause from None
            raise
        if refusal := steered.refusal():
            raise refusal
        if isinstance(response, ChatCompletionResponse):
            if not steered.was_steered():
                raise Unsaid(LOST["error"]["message"])
            # A field that vLLM's model does not know, and writes out with the others.
            response.steering = steered.receipt()  # type: ignore[attr-defined]
            outcome = Outcome.COMPLETED
        return response
    finally:
        steered.close(outcome)


def _error(error: Exception) -> ErrorResponse:
    """`error` in the form in which vLLM writes errors into a line of the output."""
    status, said = status_of(error), envelope(error)["error"]
    return ErrorResponse(
        error=ErrorInfo(
            message=said["message"],
            type="BadRequestError" if status == 400 else HTTPStatus(status).phrase,
            param=said["param"],
            code=status,
        )
    )
