"""What the HTTP tests say to the server, in few words."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

FRANCE = "What is the capital of France?"


@dataclass
class Client:
    """Requests at temperature 0 to the demo model."""

    http: httpx.Client

    def chat(self, text: str = FRANCE, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=chat_body(text, **fields))

    def chat_text(self, text: str = FRANCE, **fields: Any) -> str:
        answer = self.chat(text, **fields)
        assert answer.status_code == 200, answer.text
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """All chunks of a stream that ends as it should."""
        chunks = []
        with self.http.stream("POST", path, json={**body, "stream": True}) as answer:
            assert answer.status_code == 200, answer.read()
            lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
        if "responses" not in path:
            assert lines.pop() == "data: [DONE]"
        for line in lines:
            chunks.append(json.loads(line.removeprefix("data: ")))
        return chunks

    def upload(self, data: bytes, name: str | None = None) -> httpx.Response:
        fields = {} if name is None else {"name": name}
        files = {"file": ("vector.safetensors", data)}
        return self.http.post("/v1/steering/vectors", data=fields, files=files)

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        values = [
            float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith((name + "{", name + " "))
        ]
        assert values, f"no metric {name}"
        return sum(values)


def chat_body(text: str = FRANCE, **fields: Any) -> dict[str, Any]:
    return {
        "model": "smollm2",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
        **fields,
    }


def completion_body(prompt: Any = "The sky is", **fields: Any) -> dict[str, Any]:
    return {"model": "smollm2", "prompt": prompt, "temperature": 0, "max_tokens": 8, **fields}
