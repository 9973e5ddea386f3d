"""Refusing `steering` where it would be ignored: vLLM answers 200 to fields it does not know."""

import json
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.limits import is_ours, path_of

STEERED_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses"}
)


class RefuseIgnoredSteering:
    """Pure ASGI middleware: a JSON POST with a top-level `steering` key to any route of vLLM's that
    does not steer is a 400. Bodies that cannot mention the word pass without being parsed: none has
    it written out, or in JSON's escapes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _concerns_us(scope):
            await self.app(scope, receive, send)
            return
        messages: list[Message] = []
        while True:
            message = await receive()
            messages.append(message)
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        body = b"".join(m.get("body", b"") for m in messages)
        if (b'"steering"' in body or b"\\u" in body) and _has_field(body):
            await _refusal(scope["path"])(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


def _concerns_us(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    if path_of(scope) in STEERED_PATHS or is_ours(scope):
        return False
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return any(b"json" in kind.lower() for kind in kinds)


def _has_field(body: bytes) -> bool:
    try:
        data: Any = json.loads(body)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("steering") is not None


def _refusal(path: str) -> JSONResponse:
    error = {
        "message": f"{path} cannot be steered; use one of {', '.join(sorted(STEERED_PATHS))}",
        "type": "invalid_request_error",
        "param": "steering",
        "code": "not_supported",
    }
    return JSONResponse({"error": error}, status_code=400)
