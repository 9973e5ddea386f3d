"""`vllm run-batch`, the real one on a real engine: chats with the field are steered."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steersman.steering.plan.settings import Settings
from steersman.vectors.library.library import Library

MODULE = "vllm.entrypoints.launchers.run_batch"
SAMPLED = {"temperature": 1, "seed": 0, "ignore_eos": True}


def test_lines_with_the_field_are_steered(
    model: Path, tmp_path: Path, make_vector: Callable[..., bytes]
) -> None:
    library = Library(tmp_path / "library", hidden_size=576, num_layers=30)
    library.add(make_vector(1), "rnd")
    for n in range(6):
        library.add(make_vector(10 + n, layers=tuple(range(30))), f"tall{n}")

    plain = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    bodies: dict[str, dict[str, Any]] = {
        "plain": plain,
        "steered": {**plain, "steering": {"vectors": {"rnd": 3.0}}},
        "named": {**plain, "model": "smollm2:rnd@3"},
        "nobody": {**plain, "model": "smollm2:nobody"},
        "twice": {**plain, **SAMPLED, "n": 2, "steering": {"vectors": {"rnd": 3.0}}},
        "zero": {**plain, "steering": {"vectors": {"rnd": 0.0}}},
        "unknown": {**plain, "steering": {"vectors": {"nobody": 1.0}}},
        "wrong": {**plain, "steering": {"vectors": {"rnd": 1.0}, "layer": 3}},
        "stream": {**plain, "stream": True, "steering": {"vectors": {"rnd": 1.0}}},
        "misplaced": {**plain, "metadata": {"steering": "rnd"}},
    }
    # Two of these vectors fit into the bank, and one line may wait: none is refused.
    for n in range(12):
        steering = {"vectors": {f"tall{n % 6}": 0.1 + n / 100}}
        bodies[f"many{n}"] = {**plain, "max_tokens": 4, "steering": steering}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in bodies.items()
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = Settings(library=str(tmp_path / "library"), bank_rows=64, max_waiting=1)
    command = [
        *(sys.executable, "-m", MODULE, "--model", str(model), "--served-model-name", "smollm2"),
        *("-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl")),
        *("--max-model-len", "512", "--enforce-eager", "--dtype", "float32"),
        *("--kv-cache-memory-bytes", "536870912"),
        *("--additional-config", json.dumps({"steersman": settings.to_dict()})),
    ]
    environment = {"VLLM_PLUGINS": "steersman", "STEERSMAN_HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, timeout=600
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()[-4000:]
    results = {
        line["custom_id"]: line
        for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }

    def text(name: str) -> str:
        said: str = results[name]["response"]["body"]["choices"][0]["message"]["content"]
        return said

    def receipt(name: str) -> dict[str, Any]:
        found: dict[str, Any] = results[name]["response"]["body"]["steering"]
        return found

    assert text("plain") == "The capital of France is Paris."
    assert "steering" not in results["plain"]["response"]["body"]
    assert text("zero") == text("plain")
    assert text("steered") != text("plain")
    assert receipt("steered")["vectors"][0]["steered_tokens"] == 12
    assert text("named") == text("steered")
    assert results["named"]["response"]["body"]["model"] == "smollm2:rnd@3"
    assert receipt("named")["source"] == "model"
    assert receipt("steered")["vectors"][0]["id"] == "rnd"
    assert receipt("twice")["vectors"][0]["steered_tokens"] == 24
    for n in range(12):
        (said,) = receipt(f"many{n}")["vectors"]
        assert (said["id"], said["steered_tokens"]) == (f"tall{n % 6}", 4)

    def error(name: str) -> tuple[int, str]:
        said = results[name]
        assert said["response"]["body"] is None
        return said["response"]["status_code"], said["error"]["error"]["param"]

    assert error("nobody") == (404, "model")
    assert error("unknown") == (400, "steering.vectors[0].id")
    assert error("wrong") == (400, "steering.layer")
    assert error("stream") == (400, "stream")
    assert error("misplaced") == (400, "body.metadata.steering")
