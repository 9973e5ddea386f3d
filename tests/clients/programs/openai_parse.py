"""openai's Python library, `.parse()`: an answer that fits a schema, steered."""

from typing import Literal

import openai
from pydantic import BaseModel
from say import ASK, STEERING, URL, Say, Seen


class Mood(BaseModel):
    """What is asked for."""

    mood: Literal["good", "bad"]


MESSAGES: list[dict[str, str]] = [
    {"role": "user", "content": ASK["question"]},
    {"role": "assistant", "content": "It was fine."},
    {"role": "user", "content": 'Say it as JSON, {"mood": "good"} or {"mood": "bad"}.'},
]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


def parsed() -> Seen:
    """`parsed` if it is; that it was steered, the receipt says."""
    answer = client.chat.completions.parse(
        model=ASK["model"],
        messages=MESSAGES,  # type: ignore[arg-type]
        max_tokens=100,
        temperature=0,
        response_format=Mood,
        extra_body={"steering": STEERING},
    )
    assert isinstance(answer.choices[0].message.parsed, Mood)
    return "parsed", getattr(answer, "steering", None)


say = Say("openai Python, `.parse()`", "openai", "parsed")
say.cell("field", "`extra_body`", parsed)
