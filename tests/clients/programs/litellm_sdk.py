"""LiteLLM as a library."""

from typing import Any

import litellm
from say import ASK, CHAT, NAME, STEERING, URL, Say, Seen

litellm.suppress_debug_info = True
AT: dict[str, Any] = {**CHAT, "api_base": f"{URL}/v1", "api_key": "none"}
PLAIN, NAMED = f"openai/{ASK['model']}", f"openai/{NAME}"
FIELD: dict[str, Any] = {"model": PLAIN, "extra_body": {"steering": STEERING}}


def read(**more: Any) -> Seen:
    answer = litellm.completion(**AT, **more)
    return answer.choices[0].message.content, getattr(answer, "steering", None)


def stream() -> Seen:
    chunks = list(litellm.completion(**AT, **FIELD, stream=True))
    found = [getattr(chunk, "steering", None) for chunk in chunks]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return text, next((one for one in found if one), None)


say = Say("LiteLLM", "litellm")
say.cell("plain", "", lambda: read(model=PLAIN))
say.cell("field", "`extra_body`", lambda: read(**FIELD))
say.cell("name", "", lambda: read(model=NAMED))
say.cell("stream", "the receipt on a chunk", stream)
