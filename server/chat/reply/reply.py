"""Putting the receipt on an answer: into a JSON body, or into the last chunk of a stream."""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from steersman.server.chat.reply import receipt_header
from steersman.server.chat.steered_request import SteeredRequest
from steersman.server.error_response import count, envelope
from steersman.server.error_response import response as error_response
from steersman.server.errors import Unsaid

Keep = Callable[[str, dict[str, Any]], None]
DONE = "data: [DONE]"
RESPONSES_END = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that end a stream and carry the whole response."""
_INDEX = re.compile(r'"choices":\[\{"index":(\d+),')
_GOES_ON = '"finish_reason":null'
"""In a chunk after which its choice goes on, as most are: not worth parsing. A quotation mark
inside a text is escaped, so no text looks like these."""
LOST = envelope(Unsaid("the engine did not say that it steered this answer, so it is withheld"))
_LOST_EVENT = f"event: error\ndata: {json.dumps({**LOST['error'], 'type': 'error'})}\n\n"
"""The same in a Responses stream."""


def with_receipt(
    response: Response | None, steered: SteeredRequest, keep: Keep | None = None
) -> Response | None:
    """`response` with the receipt of `steered`, which is closed when the answer is complete.

    What is known of the receipt already is in a header. `keep` is called with a response's id and
    its receipt. Errors pass unchanged; None means that the client has gone. An answer that no
    worker has said anything about is an error: a steered request never runs unsteered.
    """
    if isinstance(response, StreamingResponse):
        chunks = (
            c if isinstance(c, str) else bytes(c).decode() async for c in response.body_iterator
        )
        response.body_iterator = _stream(chunks, steered, keep)
        response.headers.update(receipt_header.headers(steered.promise()))
        # A response that is never sent never runs its iterator: then the session goes with it.
        response.steering_session = steered  # type: ignore[attr-defined]
        return response
    if response is None:
        steered.close("aborted")
        return None
    if response.status_code != 200 or not steered.was_steered():
        steered.close("failed")
        lost = response.status_code == 200
        return _lost(response) if lost else response
    answer = json.loads(bytes(response.body))
    answer["steering"] = steered.receipt()
    if keep is not None:
        keep(str(answer.get("id")), answer["steering"])
    headers = {k: v for k, v in response.headers.items() if k.lower() != "content-length"}
    headers |= receipt_header.headers(steered.promise())
    steered.close("completed")
    return JSONResponse(answer, headers=headers, background=response.background)


def _lost(answer: Response) -> Response:
    refused = error_response(Unsaid(LOST["error"]["message"]))
    refused.background = answer.background
    return refused


async def _stream(
    chunks: AsyncIterator[str], steered: SteeredRequest, keep: Keep | None
) -> AsyncIterator[str]:
    outcome = "aborted"
    held: str | None = None
    choices = Choices()
    try:
        async for chunk in chunks:
            if chunk.startswith("event: "):
                kind = chunk.partition("\n")[0].removeprefix("event: ")
                if kind in RESPONSES_END:
                    outcome = "failed" if kind == "response.failed" else "completed"
                    if outcome == "completed" and not steered.was_steered():
                        outcome = "failed"
                        count(Unsaid(""))
                        yield _LOST_EVENT
                    else:
                        yield _with_responses_receipt(chunk, steered, keep)
                else:
                    yield chunk
            elif chunk.startswith('data: {"error"'):
                outcome = "failed"
                if held is not None:
                    yield _finished(held, steered)
                    held = None
                refusal = steered.refusal()
                yield chunk if refusal is None else _error(refusal)
            elif chunk.startswith(DONE):
                if outcome != "failed":
                    outcome = "completed" if steered.was_steered() else "failed"
                    yield _with_chunk_receipt(held, steered)
                elif held is not None:
                    yield _finished(held, steered)
                held = None
                yield chunk
            elif choices.may_be_over(chunk):
                if held is not None:
                    yield _finished(held, steered)
                held = chunk
            else:
                if held is not None and chunk.startswith("data: {"):
                    yield _finished(held, steered)
                    held = None
                yield _finished(chunk, steered) if choices.ended_one else chunk
        if held is not None:
            yield _finished(held, steered)
    except Exception:
        outcome = "failed"
        raise
    finally:
        steered.close(outcome)


class Choices:
    """Which choices of a stream have been seen, and which have ended."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._ended: set[int] = set()
        self.ended_one = False
        """Whether a choice ended in the chunk that was last looked at."""

    def may_be_over(self, chunk: str) -> bool:
        """Whether `chunk` may be the last: every choice seen has ended. Only such are held back."""
        self.ended_one = False
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
                self.ended_one = True
        return bool(self._seen) and self._seen == self._ended


def _error(error: Exception) -> str:
    """The chunk that says `error`, which ended a stream that had begun."""
    count(error)
    return f"data: {json.dumps(envelope(error))}\n\n"


def _finished(chunk: str, steered: SteeredRequest) -> str:
    """`chunk` with the receipt as of now, if a choice ends in it."""
    data = json.loads(chunk.removeprefix("data: ")) if chunk.startswith("data: {") else {}
    if not steered.was_steered() or not _put(data, steered):
        return chunk
    return f"data: {json.dumps(data)}\n\n"


def _put(data: dict[str, Any], steered: SteeredRequest) -> bool:
    """Put the receipt on a chunk in which a choice ends, and say whether it is one.

    Of a chat, the delta has it too: what adds up the deltas, as `.stream()` of openai's Python
    does, keeps that and drops what stands beside the choices.
    """
    ends = [choice for choice in data.get("choices") or () if choice.get("finish_reason")]
    if ends:
        data["steering"] = steered.receipt()
        for choice in ends:
            if isinstance(choice.get("delta"), dict):
                choice["delta"]["steering"] = data["steering"]
    return bool(ends)


def _with_chunk_receipt(held: str | None, steered: SteeredRequest) -> str:
    """The last chunk with the receipt; a chunk of its own if nothing was held back."""
    if not steered.was_steered():
        count(Unsaid(""))
        return f"data: {json.dumps(LOST)}\n\n"
    data = json.loads(held.removeprefix("data: ")) if held else {"choices": []}
    if not _put(data, steered):
        data["steering"] = steered.receipt()
    return f"data: {json.dumps(data)}\n\n"


def _with_responses_receipt(event: str, steered: SteeredRequest, keep: Keep | None) -> str:
    head, _, body = event.partition("\ndata: ")
    data = json.loads(body)
    receipt = steered.receipt() if steered.was_steered() else None
    data["response"]["steering"] = receipt
    if keep is not None and receipt is not None:
        keep(str(data["response"].get("id")), receipt)
    return f"{head}\ndata: {json.dumps(data)}\n\n"
