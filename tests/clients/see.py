"""What Python clients see of a running server that has the vectors of the demo.

python see.py URL, in an environment that has openai, and perhaps litellm and langchain-openai.
Stands alone: the clients' environment has nothing of ours. Prints a line of JSON for each request:
`client`, `what` it sent, the `route` whose answer it got, `status`, the answer's `text`, and
`receipt`, the places where it saw one. `compare.py` reads them.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

URL = sys.argv[1]
ASK = json.loads((Path(__file__).parent / "ask.json").read_text())
STEERING = {"vectors": {ASK["vector"]: ASK["coefficient"]}}
NOBODY = {"vectors": {"nobody": 1}}
HEADER = {"X-Steering": f"{ASK['vector']}={ASK['coefficient']}"}
CHAT: dict[str, Any] = {
    "model": ASK["model"],
    "messages": [{"role": "user", "content": ASK["question"]}],
    "max_tokens": ASK["tokens"],
    "stop": ASK["stop"],
    "temperature": 0,
}

Seen = tuple[str, dict[str, Any]]
"""An answer's text, and what was found in the places where a receipt may be."""


def row(client: str, what: str, route: str, status: str, text: str = "", place: str = "") -> None:
    line = {"client": client, "what": what, "route": route, "status": status}
    print(json.dumps({**line, "text": text, "receipt": place}), flush=True)


class Client:
    """Prints the rows of one client."""

    def __init__(self, package: str, name: str) -> None:
        self._name = f"{name} {importlib.metadata.version(package)}"

    def sees(self, what: str, make: Callable[[], Seen], route: str = "chat") -> None:
        try:
            text, places = make()
        except Exception as error:  # noqa: BLE001 (what a client makes of it is what is seen)
            row(self._name, what, route, reason(error))
        else:
            found = [place for place, receipt in places.items() if receipt]
            row(self._name, what, route, "200", text, ", ".join(found))


def reason(error: Exception) -> str:
    """An error's status, and the key that it names or else its class."""
    status, param = getattr(error, "status_code", None), getattr(error, "param", None)
    return f"{status or 'no status'}, {param or type(error).__name__}"


def openai_python() -> None:
    import openai

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    sees, chat = Client("openai", "openai Python").sees, client.chat.completions
    body = {"steering": STEERING}

    def answer(whole: Any, place: str = "`steering`") -> Seen:
        return whole.choices[0].message.content, {place: getattr(whole, "steering", None)}

    def stream() -> Seen:
        chunks = list(chat.create(**CHAT, stream=True, extra_body=body))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return text, {"last chunk": getattr(chunks[-1], "steering", None)}

    def final(steering: Any) -> Seen:
        with chat.stream(**CHAT, extra_body={"steering": steering}) as events:
            for _ in events:
                pass
            whole = events.get_final_completion()
        message = whole.choices[0].message
        places = {
            "`steering`": getattr(whole, "steering", None),
            "`message.steering`": getattr(message, "steering", None),
        }
        for place, receipt in list(places.items()):
            if receipt and receipt.get("dynamic"):
                count = len(receipt["dynamic"][ASK["vector"]]["coefficients"])
                places[f"{place} with coefficients" if count else f"{place}, its lists empty"] = (
                    places.pop(place)
                )
        return message.content or "", places

    def header() -> Seen:
        raw = chat.with_raw_response.create(**CHAT, extra_headers=HEADER)
        text, places = answer(raw.parse())
        return text, {**places, "header": raw.headers.get("steering-receipt")}

    def stored() -> Seen:
        made = client.responses.create(**responses, extra_body=body)
        found = client.responses.retrieve(made.id)
        return found.output_text, {"`steering`": getattr(found, "steering", None)}

    def created() -> Seen:
        made = client.responses.create(**responses, extra_body=body)
        return made.output_text, {"`steering`": getattr(made, "steering", None)}

    responses: dict[str, Any] = {
        "model": ASK["model"],
        "input": ASK["question"],
        "max_output_tokens": ASK["tokens"],
        "temperature": 0,
    }
    sees("`extra_body`", lambda: answer(chat.create(**CHAT, extra_body=body)))
    sees("`extra_body`, `stream=True`", stream)
    sees("`extra_body`, `.stream()`, final object", lambda: final(STEERING))
    sees("the same, dynamic", lambda: final(ASK["dynamic"]), "dynamic")
    sees("`extra_headers={'X-Steering': ...}`, `with_raw_response`", header)
    sees(
        "`extra_body` inside `extra_body`",
        lambda: answer(chat.create(**CHAT, extra_body={"extra_body": body})),
    )
    sees(
        "a vector that is not there",
        lambda: answer(chat.create(**CHAT, extra_body={"steering": NOBODY})),
    )
    sees("`responses.create`, `extra_body`", created, "responses")
    sees("the same, then `responses.retrieve`", stored, "responses")


def litellm() -> None:
    import litellm

    litellm.suppress_debug_info = True
    sees = Client("litellm", "LiteLLM").sees
    at = {**CHAT, "model": "openai/" + ASK["model"], "api_base": f"{URL}/v1", "api_key": "none"}
    body = {"steering": STEERING}

    def answer(whole: Any) -> Seen:
        message = whole.choices[0].message
        headers = whole._hidden_params.get("additional_headers") or {}
        return message.content, {
            "`steering`": getattr(whole, "steering", None),
            "`message.steering`": getattr(message, "steering", None),
            "header in `_hidden_params`": headers.get("llm_provider-steering-receipt"),
        }

    def stream() -> Seen:
        chunks = list(litellm.completion(**at, stream=True, extra_body=body))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return text, {
            "a chunk": any(getattr(chunk, "steering", None) for chunk in chunks),
            "last delta": any(getattr(c.choices[0].delta, "steering", None) for c in chunks),
        }

    sees("`extra_body`", lambda: answer(litellm.completion(**at, extra_body=body)))
    sees("`extra_body`, `stream=True`", stream)
    sees(
        "`extra_headers={'X-Steering': ...}`",
        lambda: answer(litellm.completion(**at, extra_headers=HEADER)),
    )
    anthropic = {**at, "model": "anthropic/" + ASK["model"], "api_base": URL}
    sees(
        "`anthropic/...`, `extra_body`",
        lambda: answer(litellm.completion(**anthropic, extra_body=body)),
    )
    sees(
        "a vector that is not there",
        lambda: answer(litellm.completion(**at, extra_body={"steering": NOBODY})),
    )


def langchain() -> None:
    from langchain_openai import ChatOpenAI

    sees = Client("langchain-openai", "LangChain").sees
    at: dict[str, Any] = {
        "model": ASK["model"],
        "base_url": f"{URL}/v1",
        "api_key": "none",
        "max_tokens": ASK["tokens"],
        "stop": ASK["stop"],
        "temperature": 0,
        "max_retries": 0,
    }

    def seen(text: str, *messages: Any) -> Seen:
        places: dict[str, Any] = {}
        for message in messages:
            meta, more = message.response_metadata, message.additional_kwargs
            headers = meta.get("headers") or {}
            places["answer"] = places.get("answer") or meta.get("steering") or more.get("steering")
            places["`headers`"] = places.get("`headers`") or headers.get("steering-receipt")
        return text, places

    def answer(**options: Any) -> Seen:
        message = ChatOpenAI(**at, **options).invoke(ASK["question"])
        return str(message.content), seen("", message)[1]

    def stream(**options: Any) -> Seen:
        chunks = list(ChatOpenAI(**at, **options).stream(ASK["question"]))
        return seen("".join(str(chunk.content) for chunk in chunks), *chunks)

    body = {"extra_body": {"steering": STEERING}}
    headers = {"include_response_headers": True}
    sees("`extra_body`", lambda: answer(**body))
    sees("`extra_body`, `include_response_headers`", lambda: answer(**body, **headers))
    sees("the same, `.stream()`", lambda: stream(**body, **headers))
    sees(
        "`default_headers={'X-Steering': ...}`, `include_response_headers`",
        lambda: answer(default_headers=HEADER, **headers),
    )
    sees("a vector that is not there", lambda: answer(extra_body={"steering": NOBODY}))


for group in (openai_python, litellm, langchain):
    try:
        group()
    except ImportError as error:
        row(group.__name__, "all", "chat", f"not installed: {error}")
