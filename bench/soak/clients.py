"""The soak's clients: each sends one request after another, and checks every answer."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from bench.receipts import Body, Usage
from bench.soak.asks import (
    CHAT,
    COMPLETION,
    RESPONSE,
    Golden,
    Question,
    Use,
    content_questions,
    fixed_questions,
)
from bench.soak.shelf import CONTENTS, LAYERS, Shelf

TWO_GREEDY = {"n": 2, "temperature": 1.0, "top_k": 1}
"""vLLM refuses two answers at temperature 0; the best token of one is the same choice."""


class Wrong(Exception):
    """An answer that is not what it must be."""


@dataclass
class Tally:
    """What has been seen so far."""

    done: Counter[str] = field(default_factory=Counter)
    """Requests that ended as they should, by kind."""
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    receipts: int = 0
    compared: int = 0
    """Answers that were compared with golden ones."""
    violations: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """One answer as a client saw it; `usage` and `receipt` are None for one that was broken off."""

    texts: dict[int, str]
    usage: Usage | None
    receipt: Body | None
    began: float
    ended: float


@dataclass
class Client:
    """One of the soak's clients. Loops until `stop`."""

    http: httpx.AsyncClient
    shelf: Shelf
    golden: dict[Question, Golden | None]
    tally: Tally
    draw: random.Random

    async def run(self, stop: asyncio.Event) -> None:
        """Send requests one after another."""
        kinds = [self._fixed] * 10 + [self._swapped] * 3 + [self._guest] * 4 + [self._sampled] * 2
        kinds += [self._broken_off] * 3
        while not stop.is_set():
            kind = self.draw.choice(kinds)
            name = kind.__name__.strip("_")
            try:
                await kind()
                self.tally.done[name] += 1
            except (Wrong, httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                self.tally.violations.append(f"{name}: {type(error).__name__}: {error}")
                await asyncio.sleep(1)

    async def _fixed(self) -> None:
        question = self.draw.choice(fixed_questions())
        if question.route == CHAT and self.draw.random() < 0.2:
            question = replace(question, route=RESPONSE)
        digests = {self.shelf.digests[use.id] for use in question.uses}
        await self._ask(question, question, allowed=digests)

    async def _swapped(self) -> None:
        question = self.draw.choice(content_questions(2)).with_ids("swapped")
        seen = await self._send(question)
        possible = self.shelf.possible_digests(seen.began, seen.ended)
        self._check_receipt(question, seen, possible)
        digest = _vectors(seen)[0]["digest"]
        content = next(n for n in (0, 1) if self.shelf.digests[f"content{n}"] == digest)
        self._check_text(question.with_ids(f"content{content}"), seen)

    async def _guest(self) -> None:
        known = [*self.shelf.guests, *self.shelf.gone[-4:]]
        if not known:
            return
        guest = self.draw.choice(known)
        content = guest.content if guest.content is not None else 0
        asked = self.draw.choice(
            [q for q in content_questions(CONTENTS) if q.uses[0].id == f"content{content}"]
        )
        try:
            seen = await self._send(asked.with_ids(guest.name))
        except _Absent as absent:
            if not guest.may_be_gone(absent.began, absent.ended):
                raise Wrong(f"vector_not_found for {guest.name}, which is there") from None
            self.tally.statuses["400 for a deleted vector (intended)"] += 1
            return
        if not guest.may_be_there(seen.began, seen.ended):
            raise Wrong(f"{guest.name} was used after it had been deleted")
        self._check_receipt(asked.with_ids(guest.name), seen, {guest.digest})
        if guest.content is not None:
            self._check_text(asked, seen)

    async def _sampled(self) -> None:
        """Longer, at temperature 1: nothing to compare with, but there is a receipt."""
        use = Use("kept1", self.draw.uniform(-1, 1))
        question = Question(self.draw.choice((CHAT, COMPLETION)), self.draw.randrange(6), (use,))
        seen = await self._send(
            question, temperature=1.0, max_tokens=64, n=self.draw.choice((1, 2))
        )
        self._check_receipt(question, seen, {self.shelf.digests["kept1"]})

    async def _broken_off(self) -> None:
        question = self.draw.choice(fixed_questions())
        patience = self.draw.choice((0, 0, 1, 2, 4, 8))
        texts: dict[int, str] = {}
        async with self._stream(question, {}) as response:
            await self._check_status(response, time.monotonic())
            if patience:
                async for chunk in _chunks(response):
                    _add(texts, chunk)
                    patience -= 1
                    if patience <= 0:
                        break
        self.tally.statuses["stream broken off"] += 1
        golden = self.golden[question]
        if golden and not golden.text.startswith(texts.get(0, "")):
            raise Wrong(f"{question} began {texts[0]!r}, golden {golden.text!r}")

    async def _ask(self, asked: Question, golden: Question, allowed: set[str]) -> None:
        several = asked.route == CHAT and self.draw.random() < 0.1
        seen = await self._send(asked, **(TWO_GREEDY if several else {}))
        self._check_receipt(asked, seen, allowed)
        if golden.route == RESPONSE:
            golden = replace(golden, route=CHAT)
        self._check_text(golden, seen)

    async def _send(self, question: Question, **fields: Any) -> Seen:
        """The answer, streamed or whole as chance has it. Raises `Wrong` or `_Absent`."""
        streamed = question.route != RESPONSE and self.draw.random() < 0.5
        began = time.monotonic()
        if streamed:
            async with self._stream(question, fields) as response:
                await self._check_status(response, began)
                chunks = [chunk async for chunk in _chunks(response)]
        else:
            response = await self.http.post(question.route, json=question.body(**fields))
            await self._check_status(response, began)
            chunks = [response.json()]
        texts: dict[int, str] = {}
        for chunk in chunks:
            _add(texts, chunk)
        usage = next((c["usage"] for c in reversed(chunks) if c.get("usage")), None)
        if usage is None:
            raise Wrong(f"{question}: no usage in the answer")
        self.tally.tokens += Usage.read(usage).completion
        receipt = chunks[-1].get("steering")
        return Seen(texts, Usage.read(usage), receipt, began, time.monotonic())

    def _stream(self, question: Question, fields: Body) -> Any:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return self.http.stream("POST", question.route, json=question.body(**options, **fields))

    async def _check_status(self, response: httpx.Response, began: float) -> None:
        if response.status_code == 200:
            self.tally.statuses["200"] += 1
            return
        text = (await response.aread()).decode(errors="replace")
        # A request that names it is a 400, a call of the vector itself a 404.
        if response.status_code in (400, 404) and '"vector_not_found"' in text:
            raise _Absent(text, began, time.monotonic())
        self.tally.statuses[str(response.status_code)] += 1
        raise Wrong(f"{response.status_code} {text[:300]}")

    def _check_text(self, golden: Question, seen: Seen) -> None:
        right = self.golden[golden]
        if right is None:
            return
        self.tally.compared += len(seen.texts)
        for text in seen.texts.values():
            if text != right.text:
                raise Wrong(f"{golden} answered {text!r}, golden {right.text!r}")
        if seen.usage and seen.usage.completion != right.tokens * len(seen.texts):
            raise Wrong(f"{golden} has {seen.usage} for {right.tokens} tokens")

    def _check_receipt(self, question: Question, seen: Seen, digests: set[str]) -> None:
        if not question.uses:
            if seen.receipt is not None:
                raise Wrong(f"an unsteered answer has a receipt: {seen.receipt}")
            return
        vectors = _vectors(seen)
        self.tally.receipts += 1
        if len(vectors) != len(question.uses) or seen.usage is None:
            raise Wrong(f"{question} has {vectors}")
        for use, vector in zip(question.uses, vectors, strict=True):
            right = (
                vector["id"] == use.id
                and vector["digest"] in digests
                and abs(vector["coefficient"] - use.coefficient) < 1e-6
                and vector["positions"] == use.positions
                and tuple(vector["layers"]) == (use.layers or LAYERS)
                and vector["steered_tokens"] in _counts(use.positions, seen.usage, len(seen.texts))
            )
            if not right:
                raise Wrong(f"{use} and {seen.usage} have the receipt {vector}, of {digests}")


class _Absent(Wrong):
    """`vector_not_found`: the vector was not there."""

    def __init__(self, text: str, began: float, ended: float) -> None:
        super().__init__(text[:300])
        self.began, self.ended = began, ended


def _counts(positions: str, usage: Usage, answers: int) -> range:
    """Steered tokens that may be right. Exact for what is steered behind the prompt; the prompt's
    own tokens may come from the prefix cache, and are then not counted again."""
    if positions == "generation":
        return range(usage.completion, usage.completion + 1)
    if positions == "after_prompt":
        return range(usage.completion - answers, usage.completion - answers + 1)
    fewest = usage.completion if positions == "all" else answers
    most = answers * usage.prompt + (usage.completion - answers if positions == "all" else 0)
    return range(fewest, most + 1)


def _vectors(seen: Seen) -> list[Body]:
    if seen.receipt is None:
        raise Wrong("a steered answer has no receipt")
    vectors: list[Body] = seen.receipt["vectors"]
    return vectors


async def _chunks(response: httpx.Response) -> AsyncIterator[Body]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            chunk: Body = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise Wrong(f"the stream broke off: {chunk['error']}")
            yield chunk


def _add(texts: dict[int, str], chunk: Body) -> None:
    """Put a chunk, or a whole answer, to what there is of each choice."""
    for output in chunk.get("output") or ():
        texts[0] = texts.get(0, "") + output["content"][0]["text"]
    for choice in chunk.get("choices") or ():
        part = choice.get("delta") or choice.get("message")
        text = (part.get("content") or "") if part else choice.get("text") or ""
        texts[choice["index"]] = texts.get(choice["index"], "") + text
