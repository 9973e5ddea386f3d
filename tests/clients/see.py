"""What Python clients see of a running server: a line of JSON for each, [name, what was seen].

python see.py URL VECTOR, in an environment that has openai, and perhaps litellm and
langchain-openai. Stands alone: the clients' environment has nothing of ours.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

URL, VECTOR = sys.argv[1:]
STEERING = {"vectors": {VECTOR: 0.5}}
MESSAGES = [{"role": "user", "content": "Hi"}]
WHOLE = [{"role": "user", "content": "What is the capital of France?"}]
ASK: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
HEADER = {"X-Steering": f"{VECTOR}=0.5"}


def see(name: str, make: Callable[[], Any]) -> None:
    try:
        said = "receipt" if make() else "no receipt"
    except Exception as error:  # noqa: BLE001 (what a client makes of it is what is seen)
        status = getattr(error, "status_code", "")
        said = f"{type(error).__name__} {status} {getattr(error, 'param', '')}".strip()
    print(json.dumps([name, said]), flush=True)


def openai_python() -> None:
    import openai

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    chat, body = client.chat.completions, {"steering": STEERING}

    # `.stream()` refuses an answer that a token limit cut off.
    whole = {**ASK, "messages": WHOLE, "max_tokens": 64}

    def final(steering: Any) -> Any:
        with chat.stream(**whole, extra_body={"steering": steering}) as stream:
            for _ in stream:
                pass
            return stream.get_final_completion().choices[0].message.steering

    dynamic = {"vectors": {VECTOR: 2.0}, "dynamic": {}}
    see("openai Python: extra_body", lambda: chat.create(**ASK, extra_body=body).steering)
    see(
        "openai Python: stream, last chunk",
        lambda: list(chat.create(**ASK, stream=True, extra_body=body))[-1].steering,
    )
    see("openai Python: .stream(), final message", lambda: final(STEERING))
    see(
        "openai Python: .stream() of dynamic, all coefficients in the final message",
        lambda: len(final(dynamic)["dynamic"][VECTOR]["coefficients"]) > 4,
    )
    see(
        "openai Python: header, Steering-Receipt",
        lambda: chat.with_raw_response.create(**ASK, extra_headers=HEADER).headers[
            "steering-receipt"
        ],
    )
    see(
        "openai Python: extra_body inside extra_body",
        lambda: chat.create(**ASK, extra_body={"extra_body": body}).steering,
    )
    see(
        "openai Python: unknown vector",
        lambda: chat.create(**ASK, extra_body={"steering": {"vectors": {"nobody": 1}}}),
    )
    see(
        "openai Python: responses, stored and retrieved",
        lambda: (
            client.responses.retrieve(
                client.responses.create(
                    model="smollm2", input="Hi", max_output_tokens=4, extra_body=body
                ).id
            ).steering
        ),
    )


def litellm() -> None:
    import litellm

    at = {**ASK, "model": "openai/smollm2", "api_base": f"{URL}/v1", "api_key": "none"}
    body = {"steering": STEERING}
    see("LiteLLM: extra_body", lambda: litellm.completion(**at, extra_body=body).steering)
    see(
        "LiteLLM: stream, some chunk",
        lambda: any(
            getattr(chunk, "steering", None) or getattr(chunk.choices[0].delta, "steering", None)
            for chunk in litellm.completion(**at, stream=True, extra_body=body)
        ),
    )
    see(
        "LiteLLM: header, Steering-Receipt",
        lambda: litellm.completion(**at, extra_headers=HEADER)._hidden_params["additional_headers"][
            "llm_provider-steering-receipt"
        ],
    )
    anthropic = {**at, "model": "anthropic/smollm2", "api_base": URL}
    see("LiteLLM: anthropic/", lambda: litellm.completion(**anthropic, extra_body=body))
    router = litellm.Router(
        [
            {
                "model_name": "m",
                "litellm_params": {k: at[k] for k in ("model", "api_base", "api_key")},
            }
        ],
        num_retries=0,
        cooldown_time=5,
        allowed_fails=0,
    )
    routed = {**ASK, "model": "m"}
    see(
        "LiteLLM router, one deployment: unknown vector",
        lambda: router.completion(**routed, extra_body={"steering": {"vectors": {"nobody": 1}}}),
    )
    see(
        "LiteLLM router, one deployment: the next request",
        lambda: router.completion(**routed, extra_body=body),
    )


def langchain() -> None:
    from langchain_openai import ChatOpenAI

    at: dict[str, Any] = {
        "model": "smollm2",
        "base_url": f"{URL}/v1",
        "api_key": "none",
        "max_tokens": 4,
        "max_retries": 0,
    }
    body = {"steering": STEERING}
    see(
        "LangChain: extra_body, in the answer",
        lambda: ChatOpenAI(**at, extra_body=body).invoke("Hi").response_metadata.get("steering"),
    )
    see(
        "LangChain: extra_body, Steering-Receipt",
        lambda: (
            ChatOpenAI(**at, extra_body=body, include_response_headers=True)
            .invoke("Hi")
            .response_metadata["headers"]["steering-receipt"]
        ),
    )
    see(
        "LangChain: header, Steering-Receipt",
        lambda: (
            ChatOpenAI(**at, default_headers=HEADER, include_response_headers=True)
            .invoke("Hi")
            .response_metadata["headers"]["steering-receipt"]
        ),
    )
    unknown = {"steering": {"vectors": {"nobody": 1}}}
    see("LangChain: unknown vector", lambda: ChatOpenAI(**at, extra_body=unknown).invoke("Hi"))


for group in (openai_python, litellm, langchain):
    try:
        group()
    except ImportError:
        print(json.dumps([group.__name__, "not installed"]), flush=True)
