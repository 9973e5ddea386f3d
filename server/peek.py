"""Looking at a stream's first chunk before its status line is sent."""

import json
from collections.abc import AsyncIterator

from starlette.responses import JSONResponse, Response, StreamingResponse


async def first_chunk_error(response: StreamingResponse) -> Response:
    """`response`, or the error it would have begun with as a response of that error's status.

    vLLM finds out the length of a prompt only after it has begun to answer; a range of positions
    outside the prompt is still a 400 this way.
    """
    chunks = aiter(response.body_iterator)
    try:
        first = await anext(chunks)
    except StopAsyncIteration:
        return response
    text = first if isinstance(first, str) else bytes(first).decode()
    if text.startswith('data: {"error"'):
        error = json.loads(text.removeprefix("data: "))
        return JSONResponse(error, status_code=int(error["error"]["code"]))

    async def again() -> AsyncIterator[str]:
        yield text
        async for chunk in chunks:
            yield chunk if isinstance(chunk, str) else bytes(chunk).decode()

    response.body_iterator = again()
    return response
