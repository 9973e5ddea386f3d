"""Looking at the head of a stream before its status line is sent."""

import json
from collections.abc import AsyncIterator

from starlette.responses import JSONResponse, Response, StreamingResponse

_BEFORE_THE_ENGINE = ("event: response.created", "event: response.in_progress")
"""Chunks that vLLM sends before it has asked the engine: how a Responses stream begins. Comments
(`--sse-keep-alive-interval`) are not held back: they are there to be seen by who else gives up."""


async def first_chunk_error(response: StreamingResponse) -> Response:
    """`response`, or the error it would have begun with, as a response of that error's status.

    What is wrong with the steering, the session's `refusal` says better. Raises whatever the stream
    raises. vLLM begins to answer before the engine has seen the request; a range of positions
    outside the prompt is still a 400 this way, and a bank that is full a 503.
    """
    chunks = aiter(response.body_iterator)
    head: list[str] = []
    async for chunk in chunks:
        text = chunk if isinstance(chunk, str) else bytes(chunk).decode()
        head.append(text)
        if not text.startswith(_BEFORE_THE_ENGINE):
            break
    if head and head[-1].startswith('data: {"error"'):
        error = json.loads(head[-1].removeprefix("data: "))["error"]
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return JSONResponse({"error": error}, status, background=response.background)

    async def again() -> AsyncIterator[str]:
        for text in head:
            yield text
        async for chunk in chunks:
            yield chunk if isinstance(chunk, str) else bytes(chunk).decode()

    response.body_iterator = again()
    return response
