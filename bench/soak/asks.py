"""What the soak's clients ask, and golden answers to compare with.

A golden answer is taken at temperature 0 with nothing else running. In a full batch the same sums
are made in another order, so a token whose lead over the next best is of the size of that noise
(about 1e-5 in log-probability here) may honestly fall the other way: only answers whose every token
leads by `MARGIN` or more are golden, and the others are left out of the comparison and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import httpx

from bench.receipts import Body

CHAT, COMPLETION, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MARGIN = 1e-3
TOKENS = 16
PROMPTS = (
    "Name the largest planet.",
    "The lighthouse keeper wrote in his diary that",
    "What do bees make?",
    "Once upon a time, in a small village by the sea,",
    "How many days are there in a week?",
    "The recipe for a simple loaf of bread begins with",
)


@dataclass(frozen=True)
class Use:
    """One vector of a request."""

    id: str
    coefficient: float = 1.0
    layers: tuple[int, ...] | None = None
    positions: str = "generation"

    def field(self) -> Body:
        """As the request's `steering.vectors` has it."""
        body: Body = {"id": self.id, "coefficient": self.coefficient, "positions": self.positions}
        return body if self.layers is None else {**body, "layers": list(self.layers)}


@dataclass(frozen=True)
class Question:
    """One request at temperature 0, but for how it is sent."""

    route: str
    prompt: int
    uses: tuple[Use, ...] = ()

    def body(self, **fields: Any) -> Body:
        """The request's body; `fields` go before ours."""
        text = PROMPTS[self.prompt]
        body: Body = {"model": "smollm2", "temperature": 0}
        if self.route == RESPONSE:
            body |= {"input": text, "max_output_tokens": TOKENS}
        elif self.route == CHAT:
            body |= {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}
        else:
            body |= {"prompt": text, "max_tokens": TOKENS}
        if self.uses:
            body["steering"] = {"vectors": [use.field() for use in self.uses]}
        return {**body, **fields}

    def with_ids(self, *ids: str) -> Question:
        """The same with other names for its vectors."""
        uses = zip(self.uses, ids, strict=True)
        return replace(self, uses=tuple(replace(use, id=name) for use, name in uses))


@dataclass(frozen=True)
class Golden:
    """The one right answer to a question."""

    text: str
    tokens: int


def fixed_questions() -> list[Question]:
    """Asked all along, about vectors that stay: `kept0` to `kept3`."""
    steerings: list[tuple[Use, ...]] = [
        (),
        (Use("kept0", 1.0),),
        (Use("kept1", -0.8, None, "after_prompt"),),
        (Use("kept0", 0.5, (14,)), Use("kept2", 0.6, None, "all")),
        (Use("kept3", 0.7, None, "prompt"),),
    ]
    prompts = range(len(PROMPTS))
    return [Question(r, p, s) for r in (CHAT, COMPLETION) for p in prompts for s in steerings]


def content_questions(contents: int) -> list[Question]:
    """Asked about content that goes by changing names; `content0`, ... here."""
    every = [(Use(f"content{n}"),) for n in range(contents)]
    return [Question(r, p, s) for r in (CHAT, COMPLETION) for p in (1, 3) for s in every]


async def golden_answer(client: httpx.AsyncClient, question: Question) -> Golden | None:
    """The right answer; None if another came within `MARGIN` of it."""
    logprobs = {"logprobs": True, "top_logprobs": 2} if question.route == CHAT else {"logprobs": 2}
    response = await client.post(question.route, json=question.body(**logprobs))
    if response.status_code != 200:
        raise RuntimeError(f"no golden answer to {question}: {response.text}")
    answer = response.json()
    choice = answer["choices"][0]
    if question.route == CHAT:
        tops = [[t["logprob"] for t in x["top_logprobs"]] for x in choice["logprobs"]["content"]]
    else:
        tops = [list(top.values()) for top in choice["logprobs"]["top_logprobs"]]
    leads = [first - second for first, second, *_ in (sorted(top, reverse=True) for top in tops)]
    if min(leads) < MARGIN:
        return None
    text = choice["message"]["content"] if question.route == CHAT else choice["text"]
    return Golden(text, answer["usage"]["completion_tokens"])
