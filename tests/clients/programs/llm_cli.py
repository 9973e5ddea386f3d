"""Simon Willison's `llm`, the command, with models out of `extra-openai-models.yaml`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from say import ASK, NAME, STEERING, URL, Say, Seen

FOLDER = tempfile.mkdtemp()
HEADER = {"X-Steering": f"{ASK['vector']}={ASK['coefficient']}"}


def entry(key: str, model: str, **more: object) -> dict[str, object]:
    return {"model_id": key, "model_name": model, "api_base": f"{URL}/v1", **more}


MODELS = [
    entry("plain", ASK["model"]),
    entry("named", NAME),
    entry("header", ASK["model"], headers=HEADER),
]
# JSON is YAML.
Path(FOLDER, "extra-openai-models.yaml").write_text(json.dumps(MODELS))


def ask(model: str, *more: str) -> Seen:
    command = [str(Path(sys.executable).parent / "llm"), "-m", model, *more, ASK["question"]]
    options = {"temperature": 0, "max_tokens": ASK["tokens"], "stop": ASK["stop"][0]}
    for key, value in options.items():
        command += ["-o", key, str(value)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LLM_USER_PATH": FOLDER, "OPENAI_API_KEY": "none"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip().split(ASK["stop"][1])[0], None


assert STEERING
say = Say("llm", "llm")
say.cell("plain", "", lambda: ask("plain", "--no-stream"))
say.cell("field", "`headers:` of its model file", lambda: ask("header", "--no-stream"))
say.cell("name", "`model_name:` of its model file", lambda: ask("named", "--no-stream"))
say.cell("stream", "", lambda: ask("named"))
say.without("receipt", "it prints the text alone")
