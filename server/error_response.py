"""Errors as OpenAI's clients know them: {"error": {"message", "type", "param", "code"}}.

The one place that maps exceptions to HTTP.
"""

import logging
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from steersman.server.errors import (
    BankFull,
    BodyTooSlow,
    DefaultMissing,
    Draining,
    KeyInvalid,
    LibrarySlow,
    Misplaced,
    ModelNotFound,
    NotAllowed,
    NotSteered,
    RouteNotFound,
    ServerBusy,
    TooManyJobs,
    TooManyRequests,
)
from steersman.server.metrics import METRICS
from steersman.server.middleware.body import BodyInvalid
from steersman.server.routing import path_of
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import (
    ActivationsInvalid,
    LibraryFull,
    LibraryReadOnly,
    PresetConflict,
    PresetNotFound,
    SentFull,
    SteersmanError,
    VectorConflict,
    VectorInvalid,
    VectorNotFound,
    VectorTooLarge,
)

STATUS: Final[dict[type[Exception], int]] = {
    PlanInvalid: 400,
    BodyInvalid: 400,
    Misplaced: 400,
    VectorInvalid: 400,
    ActivationsInvalid: 400,
    VectorNotFound: 404,
    PresetNotFound: 404,
    ModelNotFound: 404,
    VectorConflict: 409,
    PresetConflict: 409,
    VectorTooLarge: 413,
    BankFull: 503,
    LibrarySlow: 503,
    DefaultMissing: 503,
    TooManyJobs: 429,
    TooManyRequests: 429,
    KeyInvalid: 401,
    NotAllowed: 403,
    RouteNotFound: 404,
    BodyTooSlow: 408,
    Draining: 503,
    ServerBusy: 503,
    LibraryFull: 507,
    LibraryReadOnly: 503,
    SentFull: 503,
    NotSteered: 500,
    SteersmanError: 500,
}
"""The nearest class in an exception's ancestry decides."""

_CODES: Final[dict[type[Exception], str]] = {
    BankFull: "bank_full",
    LibrarySlow: "library_slow",
    NotSteered: "vector_unavailable",
}
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES: Final = {413: "request_too_large", 503: "overloaded_error"}
ANTHROPIC_PREFIX: Final = "/v1/messages"
"""Clients of these routes read Anthropic's errors."""
_POLICY_VIOLATION: Final = 1008
logger = logging.getLogger("vllm.steersman")


def install(app: FastAPI) -> None:
    """Register handlers with `app` that answer all of our exceptions, wherever they are raised."""
    for kind in STATUS:
        app.add_exception_handler(kind, _handle)


def status_of(error: Exception) -> int:
    """The HTTP status of `error`; 500 for an exception that is not ours."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def envelope(error: Exception) -> dict[str, Any]:
    """The body of the response for `error`, to be sent as JSON."""
    status = status_of(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": getattr(error, "message", str(error)),
            "type": _TYPES.get(status, kind),
            "param": getattr(error, "param", None),
            "code": getattr(error, "code", None) or _CODES.get(type(error)),
        }
    }


def anthropic(body: dict[str, Any], status: int) -> dict[str, Any]:
    """The JSON body for `error` in Anthropic's form, with our `param` and `code` added."""
    error = body["error"]
    theirs = "invalid_request_error" if status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(status, _TYPES.get(status, theirs))
    return {"type": "error", "error": {**error, "type": kind}}


def count(error: Exception) -> None:
    """Count `error` among the rejections. It is counted once, even if another response with the
    same error replaces the first."""
    if not getattr(error, "counted", False):
        METRICS.rejections.labels(envelope(error)["error"]["code"] or "other").inc()
        error.counted = True  # type: ignore[attr-defined]


def response(error: Exception, path: str = "") -> JSONResponse:
    """The response for `error` to a call of `path`, with the error's `headers`, and with
    Retry-After if it has a `retry_after` in seconds."""
    body, status = envelope(error), status_of(error)
    count(error)
    if status in (500, 507):
        logger.error("%s: %s", type(error).__name__, error, exc_info=error.__cause__)
    headers = dict(getattr(error, "headers", {}))
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if path == ANTHROPIC_PREFIX or path.startswith(f"{ANTHROPIC_PREFIX}/"):
        body = anthropic(body, status)
    return JSONResponse(body, status_code=status, headers=headers)


async def refuse(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a call with `error`, or close a web socket that has not been accepted. For ASGI
    middleware, which runs before every handler."""
    if scope["type"] == "websocket":
        count(error)
        await receive()
        close = getattr(error, "websocket_close", _POLICY_VIOLATION)
        await send(
            {"type": "websocket.close", "code": close, "reason": envelope(error)["error"]["code"]}
        )
        return
    await response(error, path_of(scope))(scope, receive, send)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    return response(error, path_of(request.scope))
