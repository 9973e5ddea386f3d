"""LangChain's ChatOpenAI."""

from typing import Any

from langchain_openai import ChatOpenAI
from say import ASK, NAME, STEERING, URL, Say, Seen

AT: dict[str, Any] = {
    "base_url": f"{URL}/v1",
    "api_key": "none",
    "max_tokens": ASK["tokens"],
    "stop": ASK["stop"],
    "temperature": 0,
    "max_retries": 0,
    "include_response_headers": True,
}
FIELD: dict[str, Any] = {"model": ASK["model"], "extra_body": {"steering": STEERING}}


def header(message: Any) -> Any:
    return (message.response_metadata.get("headers") or {}).get("steering-receipt")


def read(**more: Any) -> Seen:
    message = ChatOpenAI(**AT, **more).invoke(ASK["question"])
    return str(message.content), header(message)


def stream() -> Seen:
    chunks = list(ChatOpenAI(**AT, **FIELD).stream(ASK["question"]))
    found = next((one for chunk in chunks if (one := header(chunk))), None)
    return "".join(str(chunk.content) for chunk in chunks), found


say = Say("LangChain `ChatOpenAI`", "langchain-openai")
say.cell("plain", "", lambda: read(model=ASK["model"]))
say.cell("field", "`extra_body`", lambda: read(**FIELD))
say.cell("name", "", lambda: read(model=NAME))
say.cell("stream", "`.stream()`", stream)
