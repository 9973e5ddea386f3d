"""The twelve lines of `examples/offline.py` give the server's answer, token for token."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.http.client import Client

SCRIPT = Path(__file__).parents[2] / "examples" / "offline.py"


def test_the_script_answers_as_the_server(
    client: Client, model: Path, make_vector: Callable[..., bytes], rnd: str, tmp_path: Path
) -> None:
    code = [line for line in SCRIPT.read_text().splitlines()[1:] if line.strip()]
    assert len(code) <= 14
    (tmp_path / "vector.safetensors").write_bytes(make_vector(1))
    home = {"STEERSMAN_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(model), "vector.safetensors"],
        cwd=tmp_path,
        env={**os.environ, **home, "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text, tokens, receipt = done.stdout.splitlines()[-3:]
    answer = client.chat(steering={"vectors": {rnd: 3.0}}, return_token_ids=True).json()
    (choice,) = answer["choices"]
    assert text == choice["message"]["content"]
    assert json.loads(tokens) == choice["token_ids"]
    (ours,), (theirs,) = ast.literal_eval(receipt)["vectors"], answer["steering"]["vectors"]
    assert {**ours, "id": rnd} == theirs
