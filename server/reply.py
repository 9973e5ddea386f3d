"""Putting the receipt on an answer: into a JSON body, or into the last chunk of a stream."""

import json
import re
from collections.abc import AsyncIterator

from starlette.responses import JSONResponse, Response, StreamingResponse

from server.session import Session

DONE = "data: [DONE]"
RESPONSES_END = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that end a stream and carry the whole response."""
_INDEX = re.compile(r'"choices":\[\{"index":(\d+),')
_GOES_ON = '"finish_reason":null'
"""In a chunk after which its choice goes on, as most are: not worth parsing. A quotation mark
inside a text is escaped, so no text looks like these."""
LOST = {
    "error": {
        "message": "the engine did not say that it steered this answer, so it is withheld",
        "type": "server_error",
        "param": "steering",
        "code": "not_steered",
    }
}
_LOST_EVENT = f"event: error\ndata: {json.dumps({**LOST['error'], 'type': 'error'})}\n\n"
"""The same in a Responses stream."""


def with_receipt(response: Response | None, session: Session) -> Response | None:
    """`response` with the receipt of `session`, which is closed when the answer is complete.

    Errors pass unchanged; None means that the client has gone. An answer that no worker has said
    anything about is an error: a steered request never runs unsteered.
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
    if response.status_code != 200 or not session.was_steered():
        session.close("failed")
        lost = response.status_code == 200
        return JSONResponse(LOST, 500, background=response.background) if lost else response
    answer = json.loads(bytes(response.body))
    answer["steering"] = session.receipt()
    headers = {k: v for k, v in response.headers.items() if k.lower() != "content-length"}
    session.close("completed")
    return JSONResponse(answer, headers=headers, background=response.background)


async def _stream(chunks: AsyncIterator[str], session: Session) -> AsyncIterator[str]:
    outcome = "aborted"
    held: str | None = None
    choices = Choices()
    try:
        async for chunk in chunks:
            if chunk.startswith("event: "):
                kind = chunk.partition("\n")[0].removeprefix("event: ")
                if kind in RESPONSES_END:
                    outcome = "failed" if kind == "response.failed" else "completed"
                    if outcome == "completed" and not session.was_steered():
                        outcome = "failed"
                        yield _LOST_EVENT
                    else:
                        yield _with_responses_receipt(chunk, session)
                else:
                    yield chunk
            elif chunk.startswith('data: {"error"'):
                outcome = "failed"
                yield chunk
            elif chunk.startswith(DONE):
                if outcome != "failed":
                    outcome = "completed" if session.was_steered() else "failed"
                    yield _with_chunk_receipt(held, session)
                held = None
                yield chunk
            elif choices.may_be_over(chunk):
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


class Choices:
    """Which choices of a stream have been seen, and which have ended."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._ended: set[int] = set()

    def may_be_over(self, chunk: str) -> bool:
        """Whether `chunk` may be the last: every choice seen has ended. Only such are held back."""
        if not chunk.startswith("data: {"):
            return False
        if _GOES_ON in chunk and (index := _INDEX.search(chunk)):
            self._seen.add(int(index[1]))
            return False
        data = json.loads(chunk.removeprefix("data: "))
        for choice in data.get("choices") or ():
            self._seen.add(choice["index"])
            if choice.get("finish_reason"):
                self._ended.add(choice["index"])
        return bool(self._seen) and self._seen == self._ended


def _with_chunk_receipt(held: str | None, session: Session) -> str:
    """The last chunk with the receipt; a chunk of its own if nothing was held back."""
    if not session.was_steered():
        return f"data: {json.dumps(LOST)}\n\n"
    data = json.loads(held.removeprefix("data: ")) if held else {"choices": []}
    data["steering"] = session.receipt()
    return f"data: {json.dumps(data)}\n\n"


def _with_responses_receipt(event: str, session: Session) -> str:
    head, _, body = event.partition("\ndata: ")
    data = json.loads(body)
    data["response"]["steering"] = session.receipt() if session.was_steered() else None
    return f"{head}\ndata: {json.dumps(data)}\n\n"
