"""The demo vectors' curves, measured through a running Steersman server."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from tools.demo.generate import MAX_NEW_TOKENS

COEFFICIENTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


class Server:
    """A Steersman server that has the demo vectors; raises `SystemExit` when it refuses."""

    def __init__(self, url: str, model: str, prefix: str = "", parallel: int = 64) -> None:
        key = os.environ.get("STEERSMAN_API_KEY")
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=1800,
            limits=httpx.Limits(max_connections=parallel),
        )
        self._model = model
        self._prefix = prefix
        self._pool = ThreadPoolExecutor(parallel)
        self._unsteered: dict[str, Future[str]] = {}

    def answers(
        self, prompts: Sequence[str], name: str, coefficients: Sequence[float]
    ) -> dict[float, list[str]]:
        """Greedy answers to all prompts at each coefficient; 0 sends no `steering` at all."""
        pending = {
            coefficient: [self._ask(prompt, name, coefficient) for prompt in prompts]
            for coefficient in coefficients
        }
        return {
            coefficient: [answer.result() for answer in answers]
            for coefficient, answers in pending.items()
        }

    def _ask(self, prompt: str, name: str, coefficient: float) -> Future[str]:
        if coefficient:
            return self._pool.submit(self._answer, prompt, name, coefficient)
        # Unsteered answers are the same for every vector: one request a prompt.
        if prompt not in self._unsteered:
            self._unsteered[prompt] = self._pool.submit(self._answer, prompt, name, 0.0)
        return self._unsteered[prompt]

    def _answer(self, prompt: str, name: str, coefficient: float) -> str:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": MAX_NEW_TOKENS,
        }
        if coefficient:
            vector = {"id": f"{self._prefix}{name}", "coefficient": coefficient}
            body["steering"] = {"vectors": [vector]}
        response = self._http.post("/v1/chat/completions", json=body)
        if response.status_code != httpx.codes.OK:
            raise SystemExit(f"{name} at {coefficient}: {response.status_code} {response.text}")
        answer = response.json()
        if coefficient and not answer.get("steering", {}).get("vectors"):
            raise SystemExit(f"{name} at {coefficient}: the answer carries no receipt")
        return str(answer["choices"][0]["message"]["content"])
