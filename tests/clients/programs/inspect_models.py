"""Inspect's models (inspect-ai), with its OpenAI-compatible provider."""

import asyncio
from typing import Any

from inspect_ai.model import GenerateConfig, get_model
from say import ASK, NAME, STEERING, URL, Say, Seen

AT: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": "none"}
CONFIG: dict[str, Any] = {
    "temperature": 0,
    "max_tokens": ASK["tokens"],
    "stop_seqs": ASK["stop"],
    "max_retries": 0,
}


def ask(model: str, *, stream: bool = False, **more: Any) -> Seen:
    async def run() -> Any:
        made = get_model(f"openai-api/steersman/{model}", memoize=False, stream=stream, **AT)
        return await made.generate(ASK["question"], config=GenerateConfig(**CONFIG, **more))

    return asyncio.run(run()).completion, None


say = Say("Inspect", "inspect-ai")
say.cell("plain", "", lambda: ask(ASK["model"]))
FIELD: dict[str, Any] = {"extra_body": {"steering": STEERING}}
say.cell("field", "`extra_body`", lambda: ask(ASK["model"], **FIELD))
say.cell("name", "", lambda: ask(NAME))
say.cell("stream", "`stream=True` of `get_model`", lambda: ask(ASK["model"], stream=True, **FIELD))
say.without("receipt", "its `ModelOutput` has no place for one")
