"""promptfoo, the command: its OpenAI provider, with the field in `passthrough`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from say import ASK, NAME, STEERING, URL, Say, Seen

NODE = Path(sys.argv[3])
VERSION = json.loads((NODE / "node_modules/promptfoo/package.json").read_text())["version"]
FOLDER = Path(tempfile.mkdtemp())
QUIET = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_CONFIG_DIR": str(FOLDER / "home"),
}


def provider(model: str, **more: Any) -> dict[str, Any]:
    config = {"apiBaseUrl": f"{URL}/v1", "apiKey": "none", "temperature": 0, **more}
    config |= {"max_tokens": ASK["tokens"], "stop": ASK["stop"]}
    return {"id": f"openai:chat:{model}", "label": f"{model} {sorted(more)}", "config": config}


FIELD = provider(ASK["model"], passthrough={"steering": STEERING})
PROVIDERS = {"plain": provider(ASK["model"]), "field": FIELD, "name": provider(NAME)}
CONFIG = {
    "prompts": ["{{question}}"],
    "providers": list(PROVIDERS.values()),
    "tests": [{"vars": {"question": ASK["question"]}}],
}
# JSON is YAML.
(FOLDER / "config.yaml").write_text(json.dumps(CONFIG))
command = ["npx", "--prefix", str(NODE), "promptfoo", "eval", "-c", str(FOLDER / "config.yaml")]
command += ["-o", str(FOLDER / "out.json"), "--no-cache", "--no-table", "--no-write"]
done = subprocess.run(
    command, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False
)
OUT = json.loads((FOLDER / "out.json").read_text())["results"]["results"]


def answer(column: str) -> Seen:
    label = PROVIDERS[column]["label"]
    (found,) = [one for one in OUT if one["provider"]["label"] == label]
    if found.get("error"):
        raise RuntimeError(found["error"])
    headers = found["response"]["metadata"]["http"]["headers"]
    return found["response"]["output"], headers.get("steering-receipt")


say = Say(f"promptfoo {VERSION}", None)
say.cell("plain", "", lambda: answer("plain"))
say.cell("field", "`passthrough`", lambda: answer("field"))
say.cell("name", "", lambda: answer("name"))
say.without("stream", "it reads whole answers")
