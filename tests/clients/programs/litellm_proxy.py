"""LiteLLM's proxy, between an OpenAI client's body and the server; it passes every name on."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from say import ASK, CHAT, NAME, STEERING, URL, Say, Seen

FOLDER = Path(tempfile.mkdtemp())
# It does not start without one.
MASTER_KEY = f"sk-{secrets.token_hex(16)}"
STARTUP_SECONDS = 300.0
CONFIG = {
    "model_list": [
        {
            "model_name": "*",
            "litellm_params": {"model": "openai/*", "api_base": f"{URL}/v1", "api_key": "none"},
        }
    ]
}


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    """The address of one that runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    # JSON is YAML.
    (FOLDER / "config.yaml").write_text(json.dumps(CONFIG))
    command = [
        str(Path(sys.executable).parent / "litellm"),
        "--config",
        str(FOLDER / "config.yaml"),
    ]
    own = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": MASTER_KEY}
    with (FOLDER / "log").open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port, "--telemetry", "False"],
            env={**os.environ, **own},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + STARTUP_SECONDS
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (FOLDER / "log").read_text()[-2000:]
                raise SystemExit(f"LiteLLM's proxy did not start:\n{said}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health/liveliness", timeout=30):
            return True
    except OSError:
        return False


def ask(address: str, **more: Any) -> Seen:
    """The text of an answer, and its receipt: of the body, or of the header that it passes on."""
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps({**CHAT, **more}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {MASTER_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        header, body = answer.headers.get("llm_provider-steering-receipt"), answer.read().decode()
    if not more.get("stream"):
        found = json.loads(body)
        return found["choices"][0]["message"]["content"], found.get("steering")
    events = [json.loads(x[6:]) for x in body.splitlines() if x.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas), header


say = Say("LiteLLM's proxy", "litellm")
with proxy() as address:
    field: dict[str, Any] = {"model": ASK["model"], "steering": STEERING}
    say.cell("plain", "", lambda: ask(address, model=ASK["model"]))
    say.cell("field", "one more key", lambda: ask(address, **field))
    say.cell("name", "", lambda: ask(address, model=NAME))
    say.cell("stream", "the receipt in a header", lambda: ask(address, **field, stream=True))
