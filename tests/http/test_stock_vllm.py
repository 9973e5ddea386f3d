"""The promise to whoever already runs vLLM: the package and VLLM_PLUGINS are enough."""

from collections.abc import Callable
from pathlib import Path

import httpx

from bench.servers import plain_vllm, running
from tests.support.http.client import Client


def test_vllms_own_server_steers_with_the_plugin_named(
    model: Path, tmp_path: Path, make_vector: Callable[..., bytes]
) -> None:
    options = ["--served-model-name", "smollm2", "--max-model-len", "512", "--enforce-eager"]
    options += ["--dtype", "float32", "--kv-cache-memory-bytes", "536870912", "--api-key", "secret"]
    environment = {"VLLM_PLUGINS": "steersman", "STEERSMAN_HOME": str(tmp_path)}
    command = plain_vllm(str(model), options)
    with (
        running("vllm", command, environment, tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=120) as http,
    ):
        client = Client(http)
        assert http.get("/v1/steering/vectors").status_code == 401
        assert client.chat().status_code == 401
        http.headers["Authorization"] = "Bearer secret"
        assert client.chat_text() == "The capital of France is Paris."
        assert client.upload(make_vector(1), "rnd").status_code == 201
        answer = client.chat(steering={"vectors": {"rnd": 3.0}}).json()
        assert answer["choices"][0]["message"]["content"] != "The capital of France is Paris."
        assert answer["steering"]["vectors"][0]["steered_tokens"] == 12
