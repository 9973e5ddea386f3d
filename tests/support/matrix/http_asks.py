"""What every server is asked, on each route, whole and streamed; and answers in one form."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from bench.receipts import Usage, steered_tokens
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.support.matrix.http_fleet import Door

HIDDEN = 576
TOKENS = 8
NORM = 60.0
"""About a third of the demo model's stream at the middle layers."""
CHAT, COMPLETION, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOLERANCE = 1e-4
"""Between log-probabilities of one answer from two servers: batches differ, and so do sums."""
LONG = (
    "The ferry leaves the harbour at seven in the morning. On board there is a small kitchen, and "
    "the cook, a quiet man from the north, bakes bread while the passengers watch the coast go by."
)
STEERINGS: dict[str, dict[str, Any] | None] = {
    "unsteered": None,
    "generation": {"vectors": {"one": 1.0}},
    "after_prompt": {"vectors": [{"id": "two", "coefficient": -0.7, "positions": "after_prompt"}]},
    "all": {"vectors": [{"id": "one", "coefficient": 0.6, "positions": "all"}]},
    "prompt": {"vectors": [{"id": "two", "coefficient": 0.8, "positions": "prompt"}]},
    "range and all": {
        "vectors": [
            {
                "id": "one",
                "coefficient": 0.5,
                "layers": [14],
                "positions": {"start": 2, "stop": -1},
            },
            {"id": "two", "coefficient": -0.4, "positions": "all"},
        ]
    },
}


def make_vector(seed: int, layers: tuple[int, ...] = (10, 14)) -> bytes:
    """The file of a random vector; the same seed gives the same bytes."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(layers), HIDDEN, generator=generator)
    rows *= NORM / rows.norm(dim=1, keepdim=True)
    return write_vector(
        SteeringVector(
            {HookPoint("resid_post", n): row.clone() for n, row in zip(layers, rows, strict=True)}
        )
    )


VECTORS = {"one": make_vector(1), "two": make_vector(2, (6, 20))}


@dataclass(frozen=True)
class Ask:
    """One request, at temperature 0."""

    name: str
    path: str
    body: dict[str, Any]
    streamed: bool


@dataclass(frozen=True)
class Answer:
    """One answer. Responses carry no log-probabilities here, only their text."""

    text: str
    tokens: list[str]
    logprobs: list[float]
    margin: float
    """Smallest lead of a token over the next best, in log-probability: how near it came to another
    text."""
    usage: Usage
    receipt: dict[str, Any] | None


def asks() -> list[Ask]:
    """Every route, whole and streamed, under every steering, on a short and a long prompt."""
    made = []
    for name, steering in STEERINGS.items():
        extra = {"steering": steering} if steering else {}
        for path in (CHAT, COMPLETION, RESPONSE):
            for streamed in (False, True):
                prompt = LONG if streamed else "Lighthouses are built on"
                body = {**_body(path, prompt, streamed), **extra}
                kind = "stream" if streamed else "whole"
                made.append(Ask(f"{path} {kind} {name}", path, body, streamed))
    return made


def _body(path: str, prompt: str, streamed: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "smollm2", "temperature": 0}
    if path == RESPONSE:
        return {**body, "input": prompt, "max_output_tokens": TOKENS}
    if streamed:
        body["stream_options"] = {"include_usage": True}
    if path == CHAT:
        message = {"role": "user", "content": prompt}
        return {
            **body,
            "messages": [message],
            "max_tokens": TOKENS,
            "logprobs": True,
            "top_logprobs": 2,
        }
    return {**body, "prompt": prompt, "max_tokens": TOKENS, "logprobs": 2}


def put(door: Door, ask: Ask) -> Answer:
    """Ask through `door`; the answer's receipt has been checked against its usage."""
    if ask.streamed:
        with door.stream(ask.path, ask.body) as events:
            chunks = [json.loads(event) for event in events]
    else:
        response = door.post(ask.path, json=ask.body)
        assert response.status_code == 200, f"{ask.name}: {response.text}"
        chunks = [response.json()]
    answer = _read(ask.path, chunks)
    check_receipt(ask.body.get("steering"), answer)
    return answer


def check_receipt(steering: dict[str, Any] | None, answer: Answer) -> None:
    """The receipt says what was asked, and counts what the usage says was computed."""
    if steering is None:
        assert answer.receipt is None
        return
    assert answer.receipt is not None, "no receipt"
    uses = steering["vectors"]
    if isinstance(uses, dict):
        uses = [{"id": name, "coefficient": c} for name, c in uses.items()]
    said = answer.receipt["vectors"]
    assert [v["id"] for v in said] == [use["id"] for use in uses]
    for vector, use in zip(said, uses, strict=True):
        assert abs(vector["coefficient"] - use["coefficient"]) < 1e-6
        assert vector["positions"] == use.get("positions", "generation")
        assert vector["layers"] == use.get("layers", vector["layers"])
        expected = steered_tokens(vector["positions"], answer.usage)
        assert vector["steered_tokens"] == expected, f"{vector} {answer.usage}"


def difference(one: Answer, other: Answer) -> float:
    """Largest difference in log-probability; asserts that all else but cache hits is the same."""
    assert (one.text, one.tokens) == (other.text, other.tokens)
    assert (one.usage.prompt, one.usage.completion) == (other.usage.prompt, other.usage.completion)
    assert _without_counts(one.receipt) == _without_counts(other.receipt)
    pairs = zip(one.logprobs, other.logprobs, strict=True)
    return max((abs(a - b) for a, b in pairs), default=0.0)


def _without_counts(receipt: dict[str, Any] | None) -> Any:
    """A token out of the prefix cache is not counted again, so counts may differ; doses are rounded
    to 4 digits from norms that were measured anew."""
    if receipt is None:
        return None
    left_out = ("steered_tokens", "relative_dose")
    return [{k: x for k, x in v.items() if k not in left_out} for v in receipt["vectors"]]


def _read(path: str, chunks: list[dict[str, Any]]) -> Answer:
    if path == RESPONSE:
        whole = chunks[-1].get("response", chunks[-1])
        text = whole["output"][0]["content"][0]["text"]
        usage = Usage.read(whole["usage"])
        return Answer(text, [], [], math.inf, usage, whole.get("steering"))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    if path == CHAT:
        texts = [(c.get("message") or c.get("delta")).get("content") or "" for c in choices]
        said = [x for c in choices for x in (c.get("logprobs") or {}).get("content") or ()]
        tokens, logprobs = [x["token"] for x in said], [x["logprob"] for x in said]
        best = [[top["logprob"] for top in x["top_logprobs"]] for x in said]
    else:
        texts = [c["text"] for c in choices]
        tokens = _flat((c.get("logprobs") or {}).get("tokens") for c in choices)
        logprobs = _flat((c.get("logprobs") or {}).get("token_logprobs") for c in choices)
        tops = _flat((c.get("logprobs") or {}).get("top_logprobs") for c in choices)
        best = [list(top.values()) for top in tops]
    margin = min(first - second for first, second, *_ in (sorted(b, reverse=True) for b in best))
    usage = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
    receipt = chunks[-1].get("steering")
    return Answer("".join(texts), tokens, logprobs, margin, Usage.read(usage), receipt)


def _flat(lists: Iterable[list[Any] | None]) -> list[Any]:
    return [item for items in lists for item in items or ()]
