"""A dynamic stream: each chunk says what the tokens in it were steered with.

How far an answer has come is known to vLLM's own counts of tokens alone: it sends several tokens in
one chunk when the client is slow, and none for some. So the counts are always asked for, and taken
off again where the client did not want them.
"""

import json
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final, NamedTuple

from steersman.server.chat.reply.reply import Choices
from steersman.server.chat.reply.trace import Trace

_DATA: Final = "data: "


class Asked(NamedTuple):
    """What the client, or the server's operator, wants to see of vLLM's counts."""

    total: bool
    """In a chunk behind the last."""
    each: bool
    """In every chunk."""


async def traced(chunks: AsyncIterable[Any], trace: Trace, asked: Asked) -> AsyncIterator[str]:
    """`chunks`, which have counts, each with its part of `trace` and with no counts but those
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
        if reach > told[choice]:
            data["steering"] = {"dynamic": trace.part(choice, told[choice], reach)}
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
    """What a chunk with counts says; None for comments, errors and the end."""
    if not chunk.startswith(_DATA + "{"):
        return None
    data: dict[str, Any] = json.loads(chunk.removeprefix(_DATA))
    return data if data.get("usage") and "choices" in data else None


def _written(data: dict[str, Any]) -> str:
    """As vLLM writes it: what looks for its form in the text finds it."""
    return f"{_DATA}{json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
