"""Anthropic's Python library, over `/v1/messages`."""

from typing import Any

import anthropic
from say import ASK, MESSAGES, NAME, STEERING, URL, Say, Seen

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
ASKED: dict[str, Any] = {
    "messages": MESSAGES,
    "max_tokens": ASK["tokens"],
    "stop_sequences": ASK["stop"],
}
# Its own argument is gone since 2.0.
GREEDY = {"temperature": 0}
FIELD: dict[str, Any] = {"model": ASK["model"], "extra_body": {**GREEDY, "steering": STEERING}}


def read(**more: Any) -> Seen:
    message = client.messages.create(**ASKED, **{"extra_body": GREEDY, **more})
    return message.content[0].text, getattr(message, "steering", None)


def stream() -> Seen:
    text, receipt = "", None
    for event in client.messages.create(**ASKED, **FIELD, stream=True):
        text += getattr(getattr(event, "delta", None), "text", None) or ""
        receipt = getattr(event, "steering", receipt)
    return text, receipt


say = Say("anthropic Python", "anthropic")
say.cell("plain", "", lambda: read(model=ASK["model"]))
say.cell("field", "`extra_body`", lambda: read(**FIELD))
say.cell("name", "", lambda: read(model=NAME))
say.cell("stream", "the event `message_delta`", stream)
