"""Counts the answers that a request makes, and not calls, against a key's limits.

One call with `n`, with a list of prompts, or with a batch is as much work as that many calls.
"""

from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from steersman.server.auth.rate_limit import CountedRequest
from steersman.server.error_response import refuse
from steersman.server.routing import path_of
from steersman.vectors.errors import SteersmanError

COUNTED: Final = "steersman.counted"
"""In a scope: the `CountedRequest` of the call's key."""
BODY: Final = "steersman.body"
"""In a scope: what the body says, once it has been read as JSON."""
_ANSWERING: Final = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/systemone",
    "/v1/decisions",
    "/invocations",
    "/inference/v1/generate",
    "/generative_scoring",
    "/cohere/v2/chat",
)


class CountAnswers:
    """Pure ASGI middleware: counts the answers of the call, or refuses it with 403 or 429.

    Assumption: middleware before it has read the body and put it into the scope under `BODY`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call through, or refuse it."""
        if scope["type"] == "http" and path_of(scope) in _ANSWERING:
            try:
                count_answers(scope, answers_of(scope.get(BODY)))
            except SteersmanError as error:
                await refuse(error, scope, receive, send)
                return
        await self.app(scope, receive, send)


def count_answers(scope: Scope, answers: int) -> None:
    """Count `answers` against the limits of the caller's key. If a call is counted more than once,
    the largest number counts. Raises `NotAllowed` or `TooManyRequests`."""
    counted: CountedRequest | None = scope.get(COUNTED)
    if counted is not None:
        counted.count(answers)


def answers_of(body: Any) -> int:
    """The number of answers that `body`, a request's JSON, asks for; at least 1, whatever `body`
    is."""
    if not isinstance(body, dict):
        return 1
    nested = body.get("sampling_params")
    wanted = [body, nested] if isinstance(nested, dict) else [body]
    each = max(_whole(one.get(key)) for one in wanted for key in ("n", "best_of"))
    return each * max(
        1,
        _prompts(body.get("prompt")) + _prompts(body.get("prompt_embeds")),
        _prompts(body.get("items")),
        _prompts(body.get("questions")),
        _conversations(body.get("messages")),
    )


def _whole(value: Any) -> int:
    """`value` as a whole number, in the forms that vLLM's models accept: 5, "5" and 5.0."""
    try:
        return max(1, int(value))
    except (TypeError, ValueError, OverflowError):
        return 1


def _prompts(value: Any) -> int:
    if not isinstance(value, list):
        return int(value is not None)
    # A list of numbers is one prompt, of tokens.
    return 1 if not value or isinstance(value[0], int) else len(value)


def _conversations(value: Any) -> int:
    return len(value) if isinstance(value, list) and value and isinstance(value[0], list) else 1
