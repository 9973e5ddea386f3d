"""The two requests for a cell: a steered answer, and its log-probabilities under the unsteered
model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from steersman.client.errors import Refused
from steersman.client.sweep.grid import UNSTEERED, Cell
from steersman.client.sweep.http import post


@dataclass(frozen=True)
class Answer:
    """A model's answer. `tokens`: all generated ones, including the end of its turn if it was
    reached."""

    prompt: str
    text: str
    prompt_tokens: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    first: Mapping[int, float] = field(default_factory=dict)
    """Log-probabilities at the first token of the answer, by token id, as far as asked for."""
    relative_dose: Mapping[str, float] | None = None
    """From the receipt: by layer; None if not steered, or the server is not calibrated."""


@dataclass(frozen=True)
class Asker:
    """Sends the requests for one version of a vector to one server. All methods raise what `post`
    raises."""

    http: httpx.AsyncClient
    model: str
    vector: str
    """`name@<hex>`: the same version from the first cell to the last."""
    digest: str
    max_tokens: int = 48

    async def answer(self, prompt: str, cell: Cell, **fields: Any) -> Answer:
        """The greedy answer to `prompt`. `fields` are added to the request."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "return_token_ids": True,
            # Also where the server has a default preset.
            "steering": None,
            **fields,
        }
        if cell != UNSTEERED:
            steer = {"id": self.vector, "coefficient": cell.coefficient, "layers": [*cell.layers]}
            body["steering"] = {"vectors": [steer]}
        answer = await post(self.http, "/v1/chat/completions", body)
        choice = answer["choices"][0]
        if choice.get("token_ids") is None or answer.get("prompt_token_ids") is None:
            raise Refused("the server sends no token ids, by which text is scored; is it vLLM?")
        return Answer(
            prompt=prompt,
            text=choice["message"]["content"] or "",
            prompt_tokens=tuple(answer["prompt_token_ids"]),
            tokens=tuple(choice["token_ids"]),
            first=_first(choice.get("logprobs")),
            relative_dose=self._dose(answer, cell),
        )

    async def log_probabilities(self, answer: Answer) -> list[float]:
        """Log-probability (natural) of each token of `answer`, given its prompt and the tokens
        before it, unsteered.

        Token ids are sent, not text, because tokenizing the text again may cut it differently.
        """
        if not answer.tokens:
            return []
        body = {
            "model": self.model,
            "prompt": [*answer.prompt_tokens, *answer.tokens],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            "steering": None,
        }
        scored = (await post(self.http, "/v1/completions", body))["choices"][0]["prompt_logprobs"]
        behind_prompt = scored[len(answer.prompt_tokens) :]
        return [
            float(at[str(token)]["logprob"])
            for at, token in zip(behind_prompt, answer.tokens, strict=True)
        ]

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of `text` alone."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        return list((await post(self.http, "/tokenize", body))["tokens"])

    def _dose(self, answer: dict[str, Any], cell: Cell) -> Mapping[str, float] | None:
        if cell == UNSTEERED:
            return None
        receipts = (answer.get("steering") or {}).get("vectors") or []
        if [receipt.get("digest") for receipt in receipts] != [self.digest]:
            raise Refused(
                f"an answer with coefficient {cell.coefficient:g} has no receipt for "
                f"{self.vector}: is this a Steersman server?"
            )
        dose: Mapping[str, float] | None = receipts[0].get("relative_dose")
        return dose


def _first(logprobs: Any) -> dict[int, float]:
    """Log-probabilities at the first token, by token id, from a request with
    `return_tokens_as_token_ids`."""
    if not logprobs or not logprobs.get("content"):
        return {}
    found = logprobs["content"][0]["top_logprobs"]
    return {
        int(at["token"].removeprefix("token_id:")): float(at["logprob"])
        for at in found
        if at["token"].startswith("token_id:")
    }


RUN: Final = 3


def perplexity(answers: Iterable[Sequence[float]]) -> float:
    """exp of the mean negative log-probability (natural) of a token, over all tokens of all
    `answers`; NaN if there are none."""
    values = [value for answer in answers for value in answer]
    if not values:
        return math.nan
    mean = -math.fsum(values) / len(values)
    # vLLM sends -9999 for what is impossible.
    return math.exp(mean) if mean < 700 else math.inf


def repetition(tokens: Sequence[int]) -> float:
    """Share of runs of three tokens that occurred before. Perplexity does not show loops: a model
    predicts them more and more easily."""
    runs = [tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
