"""A server without an engine: our own vector routes, and answers made up from what was asked."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, StreamingResponse

from bench.soak.shelf import LAYERS
from steersman.server import error_response
from steersman.server.library import routes as vectors_api
from steersman.server.presets.view import PresetView
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import VectorNotFound
from steersman.vectors.library.library import Entry, Library
from tests.support.server.make import presets_of

TOKENS, PROMPT = 5, 7


class Host:
    """What the vector routes want of `app.state.steersman`."""

    max_upload_bytes = 1 << 20

    def __init__(self, root: Path) -> None:
        self.library = Library(root)

    def on_change(self, event: str, name: str, digest: str | None) -> None:
        """Nobody counts here."""

    def library_for(self, _: Any) -> Library:
        return self.library

    def presets_for(self, _: Any) -> PresetView:
        return presets_of(self.library)

    def capabilities_for(self, _: Any) -> dict[str, Any]:
        return {"num_layers": max(LAYERS) + 1}


class Fake:
    """The application; `fault` names one thing that it does wrong."""

    def __init__(self, root: Path, fault: str | None = None) -> None:
        self.fault = fault
        self.asked = 0
        self.host = Host(root)
        self.guests: dict[str, Entry] = {}
        self.app = FastAPI()
        self.app.state.steersman = self.host
        error_response.install(self.app)
        self.app.include_router(vectors_api.build_router())
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
            self.app.add_api_route(path, self.answer, methods=["POST"], response_model=None)

    async def answer(self, request: Request) -> Any:
        body = await request.json()
        self.asked += 1
        wrong = self.fault if self.asked % 10 == 0 else None
        if body.get("n", 1) > 1 and not body["temperature"]:
            return JSONResponse({"error": {"message": "n must be 1 when greedy"}}, 400)
        if wrong == "error":
            return JSONResponse({"error": {"message": "no"}}, 503)
        vectors = [self._vector(use, wrong) for use in body.get("steering", {}).get("vectors", [])]
        said = body.get("messages", [{"content": body.get("prompt", body.get("input"))}])
        kind = "text" if "prompt" in body else "chat"
        steered = [(v["digest"], v["coefficient"], v["layers"], v["positions"]) for v in vectors]
        mark = json.dumps([kind, said[0]["content"], steered])
        text = hashlib.sha256(mark.encode()).hexdigest()[:20]
        if wrong == "text":
            text = text[::-1]
        answers = body.get("n", 1)
        usage = {"prompt_tokens": PROMPT, "completion_tokens": TOKENS * answers}
        for vector in vectors:
            behind = TOKENS * answers - (vector["positions"] == "after_prompt") * answers
            prompt = PROMPT * (vector["positions"] == "prompt") * answers
            vector["steered_tokens"] = prompt or behind
            vector["steered_tokens"] += 100 * (wrong == "count")
        receipt = {"vectors": vectors, "dynamic": None} if vectors else None
        if wrong == "receipt":
            receipt = None
        if wrong == "uncalled-for" and receipt is None:
            receipt = {"vectors": [], "dynamic": None}
        tail = {"steering": receipt} if receipt else {}
        if "input" in body:
            usage = {"input_tokens": PROMPT, "output_tokens": TOKENS}
            return {"output": [{"content": [{"text": text}]}], "usage": usage, **tail}
        choices = [self._choice(kind, n, text, body) for n in range(answers)]
        if not body.get("stream"):
            return {"choices": choices, "usage": usage, **tail}
        return StreamingResponse(self._stream(kind, text, answers, {"usage": usage, **tail}))

    def _vector(self, use: dict[str, Any], wrong: str | None) -> dict[str, Any]:
        entry = self._find(use["id"])
        return {
            "id": use["id"],
            "digest": entry.digest if wrong != "digest" else "sha256:" + "0" * 64,
            "coefficient": use["coefficient"] * (2 if wrong == "coefficient" else 1),
            "layers": use.get("layers", list(entry.layers)),
            "positions": use["positions"],
        }

    def _find(self, name: str) -> Entry:
        if self.fault == "absent" and self.asked % 10 == 0:
            name = "nobody"
        if self.fault == "stale" and name == "swapped":
            name = "content0"
        if self.fault == "undeleted" and name.startswith("guest"):
            if name not in self.guests:
                self.guests[name] = self.host.library.resolve(name)
            return self.guests[name]
        try:
            return self.host.library.resolve(name)
        except VectorNotFound as error:
            raise PlanInvalid(error.message, param="steering", code=error.code) from None

    @staticmethod
    def _choice(kind: str, n: int, text: str, body: dict[str, Any]) -> dict[str, Any]:
        top = [{"logprob": -0.1}, {"logprob": -3.0}]
        logprobs: dict[str, Any]
        if kind == "text":
            logprobs = {"top_logprobs": [{"a": -0.1, "b": -3.0}]}
            return {"index": n, "text": text, "logprobs": logprobs}
        logprobs = {"content": [{"top_logprobs": top}]}
        return {"index": n, "message": {"content": text}, "logprobs": logprobs}

    async def _stream(
        self, kind: str, text: str, answers: int, tail: dict[str, Any]
    ) -> AsyncIterator[str]:
        for at in range(0, len(text), 4):
            for n in range(answers):
                piece = text[at : at + 4]
                part = {"text": piece} if kind == "text" else {"delta": {"content": piece}}
                yield f"data: {json.dumps({'choices': [{'index': n, **part}]})}\n\n"
        yield f"data: {json.dumps({'choices': [], **tail})}\n\n"
        yield "data: [DONE]\n\n"
