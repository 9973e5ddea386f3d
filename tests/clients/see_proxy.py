"""What callers of LiteLLM's proxy see, with a running server as its one deployment.

python see_proxy.py URL, in an environment that has litellm[proxy]. Starts the proxy as it comes,
asks it over HTTP and stops it. Stands alone; prints lines as see.py does.
"""

import contextlib
import importlib.metadata
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

URL = sys.argv[1]
ASK = json.loads((Path(__file__).parent / "ask.json").read_text())
STEERING: dict[str, Any] = {"steering": {"vectors": {ASK["vector"]: ASK["coefficient"]}}}
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": ASK["question"]}],
    "max_tokens": ASK["tokens"],
    "stop": ASK["stop"],
    "temperature": 0,
}
STARTUP_SECONDS = 300.0
# It does not start without one.
MASTER_KEY = f"sk-{secrets.token_hex(16)}"


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    deployment = {"model": "openai/" + ASK["model"], "api_base": f"{URL}/v1", "api_key": "none"}
    with socket.socket() as listener, tempfile.TemporaryDirectory() as folder:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
        listener.close()
        config, log = Path(folder, "config.yaml"), Path(folder, "log")
        # JSON is YAML.
        config.write_text(
            json.dumps({"model_list": [{"model_name": "m", "litellm_params": deployment}]})
        )
        command = [str(Path(sys.executable).parent / "litellm"), "--config", str(config)]
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", port, "--telemetry", "False"],
                env={
                    **os.environ,
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                    "LITELLM_MASTER_KEY": MASTER_KEY,
                },
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health/liveliness"):
            return
        time.sleep(0.5)
    raise SystemExit(f"LiteLLM's proxy did not start:\n{log.read_text()[-2000:]}")


def post(address: str, headers: dict[str, str], **fields: Any) -> tuple[Any, bytes]:
    """The headers and the body of an answer. Raises HTTPError."""
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps({**CHAT, **fields}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {MASTER_KEY}", **headers},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.headers, answer.read()


def read(headers: Any, body: bytes, *, stream: bool) -> tuple[str, str]:
    """An answer's text, and the places where it has a receipt."""
    lines = body.decode().splitlines() if stream else [f"data: {body.decode()}"]
    events = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")
    ]
    choices = [choice for event in events for choice in event["choices"]]
    messages = [choice["delta" if stream else "message"] for choice in choices]
    places = {
        "`steering`": any(event.get("steering") for event in events),
        "last delta" if stream else "`message.steering`": any(m.get("steering") for m in messages),
        "header": headers.get("llm_provider-steering-receipt"),
    }
    text = "".join(message.get("content") or "" for message in messages)
    return text, ", ".join(place for place, receipt in places.items() if receipt)


def sees(address: str, what: str, headers: dict[str, str] | None = None, **fields: Any) -> None:
    version = importlib.metadata.version("litellm")
    row = {"client": f"LiteLLM proxy {version}", "what": what, "route": "chat"}
    try:
        answer = post(address, headers or {}, **fields)
        text, receipt = read(*answer, stream=bool(fields.get("stream")))
        seen = {"status": "200", "text": text, "receipt": receipt}
    except urllib.error.HTTPError as error:
        try:
            param = json.loads(error.read())["error"].get("param")
        except (ValueError, LookupError, AttributeError):
            param = None
        named = param if param and param != "None" else "no `param`"
        seen = {"status": f"{error.code}, {named}", "text": "", "receipt": ""}
    print(json.dumps({**row, **seen}), flush=True)


def main() -> None:
    header = {"X-Steering": f"{ASK['vector']}={ASK['coefficient']}"}
    with proxy() as address:
        sees(address, "unsteered")
        sees(address, "`steering` in the body", **STEERING)
        sees(address, "the same, a stream", stream=True, **STEERING)
        sees(address, "`X-Steering` in the request", header)
        # The last two, in this order: what a refused request does to everybody's next one.
        sees(address, "a vector that is not there", steering={"vectors": {"nobody": 1}})
        sees(address, "somebody's unsteered request right after it")


if __name__ == "__main__":
    main()
