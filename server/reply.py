"""Putting the receipt on an answer: into a JSON body, or into the last chunk of a stream."""

import json
from collections.abc import AsyncIterator

from starlette.responses import JSONResponse, Response, StreamingResponse

from server.session import Session

DONE = "data: [DONE]"
RESPONSES_END = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that end a stream and carry the whole response."""


def with_receipt(response: Response | None, session: Session) -> Response | None:
    """`response` with the receipt of `session`, which is closed when the answer is complete.

    Errors pass unchanged; None means that the client has gone.
    """
    if isinstance(response, StreamingResponse):
        chunks = (
            c if isinstance(c, str) else bytes(c).decode() async for c in response.body_iterator
        )
        response.body_iterator = _stream(chunks, session)
        # A response that is never sent never runs its iterator: then the session goes with it.
        response.steering_session = session  # type: ignore[attr-defined]
        return response
    if response is None:
        session.close("aborted")
        return None
    if response.status_code != 200:
        session.close("failed")
        return response
    answer = json.loads(bytes(response.body))
    answer["steering"] = session.receipt()
    headers = {k: v for k, v in response.headers.items() if k.lower() != "content-length"}
    session.close("completed")
    return JSONResponse(answer, headers=headers)


async def _stream(chunks: AsyncIterator[str], session: Session) -> AsyncIterator[str]:
    outcome = "aborted"
    held: str | None = None
    try:
        async for chunk in chunks:
            if chunk.startswith("event: "):
                yield _with_responses_receipt(chunk, session)
                outcome = "completed"
            elif chunk.startswith(DONE):
                yield _with_chunk_receipt(held, session)
                held = None
                outcome = "completed"
                yield chunk
            elif _may_be_last(chunk):
                if held is not None:
                    yield held
                held = chunk
            else:
                yield chunk
        if held is not None:
            yield held
    except Exception:
        outcome = "failed"
        raise
    finally:
        session.close(outcome)


def _may_be_last(chunk: str) -> bool:
    """A chunk that ends a choice or reports usage; holding it back delays no token's text."""
    if not chunk.startswith("data: {"):
        return False
    data = json.loads(chunk.removeprefix("data: "))
    choices = data.get("choices")
    return choices is not None and (not choices or any(c.get("finish_reason") for c in choices))


def _with_chunk_receipt(held: str | None, session: Session) -> str:
    """The last chunk with the receipt; if there was none (an error), a chunk of its own."""
    data = json.loads(held.removeprefix("data: ")) if held else {"choices": []}
    data["steering"] = session.receipt()
    return f"data: {json.dumps(data)}\n\n"


def _with_responses_receipt(event: str, session: Session) -> str:
    head, _, body = event.partition("\ndata: ")
    if head.removeprefix("event: ") not in RESPONSES_END:
        return event
    data = json.loads(body)
    data["response"]["steering"] = session.receipt()
    return f"{head}\ndata: {json.dumps(data)}\n\n"
