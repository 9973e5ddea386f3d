"""openai's Python library: synchronous, asynchronous, `.stream()` and Responses."""

import asyncio
from typing import Any

import openai
from say import ASK, CHAT, NAME, STEERING, URL, Say, Seen

BODY = {"steering": STEERING}
AT: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}
client = openai.OpenAI(**AT)
chat = client.chat.completions


def read(answer: Any) -> Seen:
    return answer.choices[0].message.content, getattr(answer, "steering", None)


def stream(**more: Any) -> Seen:
    chunks = list(chat.create(**CHAT, **more, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, getattr(chunks[-1], "steering", None)


def final(**more: Any) -> Seen:
    with chat.stream(**CHAT, **more) as events:
        for _ in events:
            pass
        whole = events.get_final_completion()
    return whole.choices[0].message.content or "", getattr(
        whole.choices[0].message, "steering", None
    )


def awaited(**more: Any) -> Seen:
    async def ask() -> Seen:
        async with openai.AsyncOpenAI(**AT) as other:
            return read(await other.chat.completions.create(**CHAT, **more))

    return asyncio.run(ask())


def awaited_stream(**more: Any) -> Seen:
    async def ask() -> Seen:
        async with openai.AsyncOpenAI(**AT) as other:
            made = await other.chat.completions.create(**CHAT, **more, stream=True)
            chunks = [chunk async for chunk in made]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return text, getattr(chunks[-1], "steering", None)

    return asyncio.run(ask())


def respond(**more: Any) -> Seen:
    answer = client.responses.create(
        input=ASK["question"], max_output_tokens=ASK["tokens"], temperature=0, **more
    )
    return answer.output_text, getattr(answer, "steering", None)


def respond_stream(**more: Any) -> Seen:
    events = list(
        client.responses.create(
            input=ASK["question"], max_output_tokens=ASK["tokens"], temperature=0, stream=True,
            **more,
        )
    )  # fmt: skip
    end: Any = events[-1]
    return end.response.output_text, getattr(end.response, "steering", None)


plain, named = {"model": ASK["model"]}, {"model": NAME}
field = {**plain, "extra_body": BODY}
say = Say("openai Python", "openai")
say.cell("plain", "", lambda: read(chat.create(**CHAT, **plain)))
say.cell("field", "`extra_body`", lambda: read(chat.create(**CHAT, **field)))
say.cell("name", "", lambda: read(chat.create(**CHAT, **named)))
say.cell("stream", "`stream=True`", lambda: stream(**field))
say = Say("openai Python, async", "openai")
say.cell("plain", "", lambda: awaited(**plain))
say.cell("field", "`extra_body`", lambda: awaited(**field))
say.cell("name", "", lambda: awaited(**named))
say.cell("stream", "`stream=True`", lambda: awaited_stream(**field))
say = Say("openai Python, `.stream()`", "openai")
say.cell("plain", "", lambda: final(**plain))
say.cell("field", "`extra_body`", lambda: final(**field))
say.cell("name", "", lambda: final(**named))
say.cell("stream", "on the final message", lambda: final(**field))
say = Say("openai Python, Responses", "openai", "responses")
say.cell("plain", "", lambda: respond(**plain))
say.cell("field", "`extra_body`", lambda: respond(**field))
say.cell("name", "", lambda: respond(**named))
say.cell("stream", "`stream=True`", lambda: respond_stream(**field))
