"""The server-sent events of an answer: its first chunk, its traces, and the receipt in its last
chunk.

vLLM's stream is handled as text, and a chunk is parsed only if its content matters here. Only
vLLM's own token counts show how many tokens a chunk of a dynamic answer has: there are several in
one chunk if the client is slow, and none in some. So the counts are always requested, and removed
again if the client did not ask for them.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.responses import JSONResponse, Response, StreamingResponse

from steersman.server.error_response import anthropic, count, envelope, status_of
from steersman.server.errors import Unsaid
from steersman.server.metrics import Outcome

if TYPE_CHECKING:
    from steersman.server.chat.steered_request import SteeredRequest

Keep = Callable[[str, dict[str, Any]], None]
DONE = "data: [DONE]"
RESPONSES_END = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that end a stream and carry the whole response."""
_INDEX = re.compile(r'"choices":\[\{"index":(\d+),')
_GOES_ON = '"finish_reason":null'
"""What a chunk has unless it ends its choice: such a chunk, as most are, is not parsed. A quotation
mark inside a text is escaped, so no text looks like these."""
LOST = envelope(
    Unsaid("the engine did not confirm that it steered this answer, so the answer is withheld")
)
MESSAGE_END = "message_delta"
"""The event of a stream in Anthropic's form that says how the message has ended."""
_DATA: Final = "data: "
_BEFORE_THE_ENGINE = ("event: response.created", "event: response.in_progress")
"""Chunks that vLLM sends before it has asked the engine: how a Responses stream begins. Comments
(`--sse-keep-alive-interval`) are not held back: a client that sees none for a while gives up."""


async def first_chunk_error(response: StreamingResponse) -> Response:
    """`response`; or, if its first chunk is an error, a response with that error and its status.

    vLLM begins to answer before the engine has checked the request. This way a range of positions
    outside the prompt is still a 400, and a full bank a 503. For errors of the steering,
    `SteeredRequest.refusal` has the better message. Raises whatever the stream raises.
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


class Choices:
    """Which choices of a stream have appeared, and which have ended."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._ended: set[int] = set()
        self.ended_one = False
        """Whether a choice ended in the chunk that was last looked at."""

    def may_be_over(self, chunk: str) -> bool:
        """Whether `chunk` may be the last one: every choice that has appeared has ended. Only such
        chunks are held back."""
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


class Asked(NamedTuple):
    """Which of vLLM's token counts the client, or the server's operator, asked for."""

    total: bool
    """In a chunk behind the last."""
    each: bool
    """In every chunk."""


Part = Callable[[int, int, int], dict[str, Any]]
"""What a chunk says under `steering` of the tokens [start, stop) of a choice: called with the
choice, start and stop."""


async def traced(chunks: AsyncIterable[Any], part: Part, asked: Asked) -> AsyncIterator[str]:
    """`chunks`, each with its `part`. Their token counts are removed, except those that were
    `asked` for."""
    told: Counter[int] = Counter()
    choices = Choices()
    last: dict[str, Any] | None = None  # waits for what the chunk of the total says beside it
    async for chunk in chunks:
        data = _counted(chunk)
        if data is not None and not data["choices"] and not asked.total:
            if last is not None and "system_fingerprint" in data:
                last["system_fingerprint"] = data["system_fingerprint"]
            continue
        if last is not None:
            yield _written(last)
            last = None
        if data is None or not data["choices"]:
            yield chunk
            continue
        choice, reach = data["choices"][0]["index"], data["usage"]["completion_tokens"]
        if reach > told[choice] and (said := part(choice, told[choice], reach)):
            data["steering"] = said
        told[choice] = reach
        if not asked.each:
            del data["usage"]
        if not asked.total and choices.may_be_over(chunk):
            last = data
        else:
            yield _written(data)
    if last is not None:
        yield _written(last)


def _counted(chunk: str) -> dict[str, Any] | None:
    """The content of a chunk with token counts; None for comments, errors and the end."""
    if not chunk.startswith(_DATA + "{"):
        return None
    data: dict[str, Any] = json.loads(chunk.removeprefix(_DATA))
    return data if data.get("usage") and "choices" in data else None


def _written(data: dict[str, Any]) -> str:
    """A chunk in the form in which vLLM writes it, because code that reads the text looks for that
    form."""
    return f"{_DATA}{json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def with_receipts(
    chunks: AsyncIterator[str], steered: "SteeredRequest", keep: Keep | None
) -> AsyncIterator[str]:
    outcome = Outcome.ABORTED
    held: str | None = None
    choices = Choices()
    try:
        async for chunk in chunks:
            if chunk.startswith("event: "):
                kind = chunk.partition("\n")[0].removeprefix("event: ")
                if kind in (*RESPONSES_END, MESSAGE_END):
                    outcome = Outcome.FAILED if kind == "response.failed" else Outcome.COMPLETED
                    if outcome == Outcome.COMPLETED and not steered.was_steered():
                        outcome = Outcome.FAILED
                        yield _error_event(Unsaid(LOST["error"]["message"]), kind == MESSAGE_END)
                    elif kind == MESSAGE_END:
                        yield _with_message_receipt(chunk, steered)
                    else:
                        yield _with_responses_receipt(chunk, steered, keep)
                elif kind == "error":
                    outcome = Outcome.FAILED
                    refusal = steered.refusal()
                    theirs = '"error":{' in chunk
                    yield chunk if refusal is None else _error_event(refusal, theirs)
                else:
                    yield chunk
            elif chunk.startswith('data: {"error"'):
                outcome = Outcome.FAILED
                if held is not None:
                    yield _finished(held, steered)
                    held = None
                refusal = steered.refusal()
                yield chunk if refusal is None else _error(refusal)
            elif chunk.startswith(DONE):
                if outcome != Outcome.FAILED:
                    outcome = Outcome.COMPLETED if steered.was_steered() else Outcome.FAILED
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
        outcome = Outcome.FAILED
        raise
    finally:
        steered.close(outcome)


def _error(error: Exception) -> str:
    """The chunk with `error`, for a stream that has begun already."""
    count(error)
    return f"data: {json.dumps(envelope(error))}\n\n"


def _error_event(error: Exception, is_anthropic: bool) -> str:
    """The event with `error`, in a Responses stream or in Anthropic's form."""
    count(error)
    said = envelope(error)
    data = anthropic(said, status_of(error)) if is_anthropic else {**said["error"], "type": "error"}
    return f"event: error\ndata: {json.dumps(data)}\n\n"


def _finished(chunk: str, steered: "SteeredRequest") -> str:
    """`chunk` with the current receipt, if a choice ends in it."""
    data = json.loads(chunk.removeprefix("data: ")) if chunk.startswith("data: {") else {}
    if not steered.was_steered() or not _put(data, steered):
        return chunk
    return f"data: {json.dumps(data)}\n\n"


def _put(data: dict[str, Any], steered: "SteeredRequest") -> bool:
    """Put the receipt on a chunk in which a choice ends. Returns whether it is such a chunk.

    In a chat the delta gets the receipt too: code that adds up the deltas, such as `.stream()` of
    OpenAI's Python library, keeps that and drops what stands beside the choices.
    """
    ends = [choice for choice in data.get("choices") or () if choice.get("finish_reason")]
    if ends:
        data["steering"] = steered.receipt()
        for choice in ends:
            if isinstance(choice.get("delta"), dict):
                choice["delta"]["steering"] = data["steering"]
    return bool(ends)


def _with_chunk_receipt(held: str | None, steered: "SteeredRequest") -> str:
    """The last chunk with the receipt; if no chunk was held back, a chunk of its own."""
    if not steered.was_steered():
        count(Unsaid(""))
        return f"data: {json.dumps(LOST)}\n\n"
    data = json.loads(held.removeprefix("data: ")) if held else {"choices": []}
    if not _put(data, steered):
        data["steering"] = steered.receipt()
    return f"data: {json.dumps(data)}\n\n"


def _with_message_receipt(event: str, steered: "SteeredRequest") -> str:
    head, _, body = event.partition("\ndata: ")
    return f"{head}\ndata: {json.dumps({**json.loads(body), 'steering': steered.receipt()})}\n\n"


def _with_responses_receipt(event: str, steered: "SteeredRequest", keep: Keep | None) -> str:
    head, _, body = event.partition("\ndata: ")
    data = json.loads(body)
    receipt = steered.receipt() if steered.was_steered() else None
    data["response"]["steering"] = receipt
    if keep is not None and receipt is not None:
        keep(str(data["response"].get("id")), receipt)
    return f"{head}\ndata: {json.dumps(data)}\n\n"
