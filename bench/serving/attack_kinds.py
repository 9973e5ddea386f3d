"""Twenty ways to try to make a steered request's stream overflow, and what to try them with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint

HIDDEN, LAYERS = 576, 30
SIZES = {"one": 1.0, "stream": 60.0, "bound": 2.0**44, "e19": 1e19, "e30": 1e30, "e38": 3e38}
"""Largest element of each vector at every layer: from a direction to the end of float32."""
BOUND = 2.0**50
WORDS = ("the", "river", "carries", "small", "boats", "past", "quiet", "houses", "while", "rain")


class Attack(NamedTuple):
    """One request, and how its client behaves."""

    path: str
    body: dict[str, Any]
    leaves_after: int | None = None
    """Chunks of the stream after which the client goes away."""


def files() -> dict[str, bytes]:
    """Vectors to upload, by name: random directions, flat ones of each sign, and steps."""
    found = {}
    for name, size in SIZES.items():
        generator = torch.Generator().manual_seed(len(name))
        v = torch.rand(HIDDEN, generator=generator) * 2 - 1
        found[name] = _file({n: v * (size / v.abs().max()) for n in range(LAYERS)})
        found[f"{name}-flat"] = _file(
            {n: torch.full((HIDDEN,), size * (-1) ** n) for n in range(LAYERS)}
        )
    steps = torch.ones(8, HIDDEN)
    steps[5:] = 3e38
    found["steps"] = _file(dict.fromkeys((3, 4), steps))
    return found


def _file(layers: dict[int, torch.Tensor]) -> bytes:
    """With a default coefficient at which it may be uploaded; an attack brings its own."""
    tensors = {HookPoint("resid_post", n): v.clone() for n, v in layers.items()}
    most = sum(float(v.abs().max()) for v in layers.values())
    return write_vector(SteeringVector(tensors, coefficient=min(1.0, BOUND / 2 / most)))


def attack(kind: int, draw: random.Random) -> Attack:
    """An attack of one of the `KINDS`, with lengths and places by chance."""
    return KINDS[kind](draw)


def prompt(draw: random.Random) -> str:
    """Some beginnings are everybody's, victims' too: their blocks are shared."""
    start = draw.choice(("Tell me about the sea.", "List three colours.", ""))
    return " ".join([start, *draw.choices(WORDS, k=draw.choice((2, 8, 30, 90)))])


def chat(steering: Any, draw: random.Random, **fields: Any) -> Attack:
    body = {
        "model": "smollm2", "messages": [{"role": "user", "content": prompt(draw)}],
        "temperature": 0, "max_tokens": draw.choice((1, 4, 12)), "steering": steering, **fields,
    }  # fmt: skip
    return Attack("/v1/chat/completions", body)


def one(name: str, draw: random.Random, coefficient: float = 1.0, **use: Any) -> Attack:
    return chat({"vectors": [{"id": name, "coefficient": coefficient, **use}]}, draw)


def huge(draw: random.Random) -> str:
    return draw.choice(("e19", "e30", "e38", "e38-flat", "e30-flat"))


def some(draw: random.Random) -> list[int]:
    return sorted(draw.sample(range(LAYERS), draw.randrange(1, 6)))


def _stream(leaves_after: int | None, draw: random.Random) -> Attack:
    name = draw.choice((huge(draw), "bound", "bound-flat"))
    found = one(name, draw, positions="all", layers=some(draw))
    return Attack(found.path, {**found.body, "stream": True, "max_tokens": 12}, leaves_after)


def _completion(draw: random.Random) -> Attack:
    return Attack(
        "/v1/completions",
        {
            "model": "smollm2", "prompt": prompt(draw), "max_tokens": 3, "temperature": 1, "n": 2,
            "echo": draw.random() < 0.5, "prompt_logprobs": 1, "logprobs": 1,
            "steering": {"vectors": {draw.choice((huge(draw), "bound-flat")): 1.0}},
        },
    )  # fmt: skip


def _extract(draw: random.Random) -> Attack:
    texts = [prompt(draw) for _ in range(8)]
    return Attack(
        "/v1/steering/vectors/extract",
        {
            "name": f"x{draw.randrange(10**9)}", "method": "mean_difference",
            "positive": texts[:4], "negative": texts[4:],
        },
    )  # fmt: skip


KINDS: tuple[Callable[[random.Random], Attack], ...] = (
    lambda d: one(huge(d), d, positions="all", layers=some(d)),
    lambda d: one(huge(d), d),
    lambda d: one(huge(d), d, positions="prompt"),
    lambda d: one(huge(d), d, positions="after_prompt"),
    lambda d: one(huge(d), d, positions={"start": 0, "stop": d.choice((1, 3))}),
    lambda d: one("stream", d, d.choice((1e4, -1e4)), positions="all"),
    lambda d: one("one", d, d.choice((1e4, -1e4)), positions="all"),
    lambda d: one("bound-flat", d, d.choice((1.0, -1.0)), positions="all"),
    lambda d: one("bound", d, BOUND / 2**44 * 0.999, layers=[d.randrange(LAYERS)]),
    lambda d: one("bound", d, BOUND / 2**44 * 1.001, layers=[d.randrange(LAYERS)]),
    lambda d: chat({"vectors": {"e38": 1.0, "e38-flat": -1.0}}, d),
    lambda d: chat({"vectors": [{"id": huge(d), "schedule": [0, 0, 1e4, -1e4]}]}, d),
    lambda d: chat({"vectors": {"bound-flat": 9999.0}, "schedule": "diminishing", "over": 5}, d),
    lambda d: one("steps", d, d.choice((1.0, 1e-3)), positions=d.choice(("all", "generation"))),
    lambda d: chat({"vectors": [{"id": "stream"}], "dynamic": {"start": 9999.0}}, d),
    lambda d: chat({"vectors": [{"id": huge(d)}], "dynamic": {"kl": "sum"}}, d),
    lambda d: _stream(None, d),
    lambda d: _stream(d.randrange(1, 5), d),
    _completion,
    _extract,
)
