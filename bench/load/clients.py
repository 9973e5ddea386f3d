"""Clients of the rolling restart: one request after another, every answer checked to the letter."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import httpx

from bench.receipts import Body
from bench.soak.asks import CHAT, COMPLETION, PROMPTS, Golden, Question, Use, golden_answer
from bench.soak.shelf import vector_file

TOKENS = 40
STEERINGS: tuple[tuple[Use, ...], ...] = (
    (),
    (Use("cheerful", 1.0),),
    (Use("formal", -1.0), Use("past", 0.75)),
)


class Long(Question):
    """A question whose answer takes a few seconds, so that restarts find many under way."""

    def body(self, **fields: Any) -> Body:
        """As its parent's, with more tokens."""
        return super().body(**{"max_tokens": TOKENS, "ignore_eos": True, **fields})


class Wrong(Exception):
    """An answer that is not what it must be."""


def questions() -> list[Question]:
    """Every other combination of routes, prompts and ways of steering."""
    every = product((CHAT, COMPLETION), range(len(PROMPTS)), STEERINGS)
    return [Long(*combination) for combination in islice(every, 0, None, 2)]


async def golden_answers(servers: Sequence[httpx.AsyncClient]) -> dict[Question, Golden]:
    """Taken one at a time from each server, the questions shared out among them.

    Those that had another text near are left out (bench/soak/asks.py).
    """
    asked = questions()

    async def share(n: int) -> list[tuple[Question, Golden | None]]:
        mine = asked[n :: len(servers)]
        return [(question, await golden_answer(servers[n], question)) for question in mine]

    shares = await asyncio.gather(*(share(n) for n in range(len(servers))))
    return {question: golden for one in shares for question, golden in one if golden is not None}


@dataclass
class Tally:
    """What has been seen so far."""

    done: Counter[str] = field(default_factory=Counter)
    """Requests that ended as they should, by kind."""
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of each answer, from sending to its end."""

    async def count(self, kind: str, ask: Coroutine[Any, Any, None]) -> None:
        """Await `ask`, and keep what became of it."""
        began = time.monotonic()
        try:
            await ask
            self.done[kind] += 1
            self.seconds.append(time.monotonic() - began)
        except (Wrong, httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            self.failures.append(f"{kind}: {type(error).__name__}: {error}")


@dataclass
class Client:
    """Asks about `golden` until `stop`."""

    http: httpx.AsyncClient
    golden: dict[Question, Golden]
    tally: Tally
    draw: random.Random

    async def run(self, stop: asyncio.Event) -> None:
        """One request after another, streamed or whole as chance has it."""
        while not stop.is_set():
            question = self.draw.choice(list(self.golden))
            streamed = self.draw.random() < 0.6
            steered = "steered" if question.uses else "unsteered"
            kind = f"{'stream' if streamed else 'whole'}, {steered}"
            ask = self._stream if streamed else self._whole
            await self.tally.count(kind, ask(question))

    async def _whole(self, question: Question) -> None:
        response = await self.http.post(question.route, json=question.body())
        _check_status(response)
        answer = response.json()
        choice = answer["choices"][0]
        text = choice["message"]["content"] if question.route == CHAT else choice["text"]
        self._check(question, text, answer.get("steering"), answer["usage"])

    async def _stream(self, question: Question) -> None:
        text, usage, receipt, done = "", None, None, False
        body = question.body(stream=True, stream_options={"include_usage": True})
        async with self.http.stream("POST", question.route, json=body) as response:
            if response.status_code != 200:
                await response.aread()
            _check_status(response)
            async for line in response.aiter_lines():
                done = done or line == "data: [DONE]"
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise Wrong(f"the stream broke off: {chunk['error']}")
                usage, receipt = chunk.get("usage") or usage, chunk.get("steering") or receipt
                for choice in chunk["choices"]:
                    text += choice.get("text") or choice.get("delta", {}).get("content") or ""
        if not done:
            raise Wrong(f"{question}: the stream ended without [DONE]")
        self._check(question, text, receipt, usage)

    def _check(
        self, question: Question, text: str, receipt: Body | None, usage: Body | None
    ) -> None:
        golden = self.golden[question]
        if text != golden.text or usage is None or usage["completion_tokens"] != golden.tokens:
            raise Wrong(f"{question} answered {text!r} ({usage}), not {golden.text!r}")
        asked = [(use.id, use.coefficient, TOKENS) for use in question.uses]
        told = (receipt or {}).get("vectors", [])
        if [(v["id"], v["coefficient"], v["steered_tokens"]) for v in told] != asked:
            raise Wrong(f"{question} has the receipt {receipt}")


@dataclass
class Editor:
    """Uploads a vector and changes it, every `pause` seconds."""

    http: httpx.AsyncClient
    tally: Tally
    pause: float
    wanted: dict[str, Body] = field(default_factory=dict)
    """By name, what the vectors must say in the end."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        n = 0
        while not stop.is_set():
            name = f"rolling-{n}"
            await self.tally.count("upload", self._upload(n, name))
            await asyncio.sleep(self.pause)
            await self.tally.count("change", self._change(n, name))
            await asyncio.sleep(self.pause)
            n += 1

    async def check(self, replica: httpx.AsyncClient) -> int:
        """How many vectors `replica` has, all as they must be. Raises `Wrong` otherwise."""
        for name, wanted in self.wanted.items():
            response = await replica.get(f"/v1/steering/vectors/{name}")
            _check_status(response)
            found = {key: response.json()[key] for key in wanted}
            if found != wanted:
                raise Wrong(f"{replica.base_url} has {name} as {found}, not {wanted}")
        return len(self.wanted)

    async def _upload(self, n: int, name: str) -> None:
        response = await self.http.post(
            "/v1/steering/vectors",
            files={"file": (f"{name}.safetensors", vector_file(1000 + n))},
            data={"name": name},
        )
        _check_status(response, 200, 201)
        self.wanted[name] = {"id": name}

    async def _change(self, n: int, name: str) -> None:
        change = {"description": f"change {n}", "coefficient": 0.5 + n}
        response = await self.http.patch(f"/v1/steering/vectors/{name}", json=change)
        _check_status(response)
        self.wanted[name] |= change


def _check_status(response: httpx.Response, *right: int) -> None:
    if response.status_code not in (right or (200,)):
        raise Wrong(f"{response.status_code} {response.text[:300]}")
