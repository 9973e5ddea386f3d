"""openai's Python library, `.parse()`: an answer that fits a schema, steered."""

from typing import Any, Literal

import openai
from pydantic import BaseModel
from say import ASK, NAME, STEERING, URL, Say, Seen


class Mood(BaseModel):
    """What is asked for."""

    mood: Literal["good", "bad"]


MESSAGES: list[dict[str, str]] = [
    {"role": "user", "content": ASK["question"]},
    {"role": "assistant", "content": "It was fine."},
    {"role": "user", "content": 'Say it as JSON, {"mood": "good"} or {"mood": "bad"}.'},
]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


ASKED: dict[str, Any] = {
    "messages": MESSAGES,
    "max_tokens": 100,
    "temperature": 0,
    "response_format": Mood,
}
FIELD: dict[str, Any] = {"model": ASK["model"], "extra_body": {"steering": STEERING}}


def judged(message: Any, receipt: Any) -> Seen:
    """`parsed` if it is and was steered, as the receipt says: two moods make no other text."""
    assert isinstance(message.parsed, Mood)
    return ("parsed" if receipt else "unsteered"), receipt


def parsed(**more: Any) -> Seen:
    answer = client.chat.completions.parse(**ASKED, **more)
    return judged(answer.choices[0].message, getattr(answer, "steering", None))


def stream(**more: Any) -> Seen:
    with client.chat.completions.stream(**ASKED, **more) as events:
        for _ in events:
            pass
        message = events.get_final_completion().choices[0].message
    return judged(message, getattr(message, "steering", None))


say = Say("openai Python, `.parse()`", "openai", "parsed")
say.cell("plain", "", lambda: parsed(model=ASK["model"]))
say.cell("field", "`extra_body`", lambda: parsed(**FIELD))
say.cell("name", "", lambda: parsed(model=NAME))
say.cell("stream", "`.stream()`, on the final message", lambda: stream(**FIELD))
