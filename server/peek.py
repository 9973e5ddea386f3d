"""Looking at a stream's first chunk before its status line is sent."""

import json
from collections.abc import AsyncIterator

from starlette.responses import JSONResponse, Response, StreamingResponse

from steering.plan import PlanInvalid


async def first_chunk_error(response: StreamingResponse) -> Response:
    """`response`, or the error it would have begun with, as a response of that error's status.

    Raises `PlanInvalid` where that error is about the steering.

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
        error = json.loads(text.removeprefix("data: "))["error"]
        if str(error["param"]).startswith("steering"):
            raise PlanInvalid(error["message"], param=error["param"])
        return JSONResponse({"error": error}, status_code=int(error["code"]))

    async def again() -> AsyncIterator[str]:
        yield text
        async for chunk in chunks:
            yield chunk if isinstance(chunk, str) else bytes(chunk).decode()

    response.body_iterator = again()
    return response
