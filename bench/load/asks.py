"""What the load test asks: short chats, more than half of them steered, each in its own way."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bench.load.tool import Arrival

VECTORS = ("cheerful", "first_person", "formal", "past", "questions", "shouting", "space")
STEERED = 0.6
TOKENS = (24, 48, 72)
MODEL = "smollm2"
WARM_UP = "warm-up"
SUBJECTS = ("rivers", "bread", "clocks", "bridges", "owls", "maps", "rain", "chess", "salt")
OPENINGS = (
    "Tell me about {}.",
    "I have never understood {}. Explain them to me in plain words, please, from the beginning.",
    "Write a letter to an old friend about {}. Say where you are, what the weather is like, what "
    "you did this morning and what you mean to do tomorrow, and ask for news of the family.",
)


class Phase(NamedTuple):
    """A stretch of constant arrival rate."""

    name: str
    rate: float
    seconds: float


def body(draw: random.Random, n: int) -> dict[str, Any]:
    """The n-th request: a stream of a known number of tokens at temperature 0."""
    text = draw.choice(OPENINGS).format(draw.choice(SUBJECTS))
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"({n}) {text}"}],
        "max_tokens": draw.choice(TOKENS),
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if draw.random() < STEERED:
        names = draw.sample(VECTORS, draw.choice((1, 1, 2, 3)))
        mix = [{"id": name, "coefficient": round(draw.uniform(-1.5, 1.5), 4)} for name in names]
        asked["steering"] = {"vectors": mix}
    return asked


def arrivals(phases: Sequence[Phase], keys: Sequence[str], draw: random.Random) -> list[Arrival]:
    """Requests at equal distances in each phase, one phase after another, the keys in turn."""
    return [
        Arrival(at, name, keys[n % len(keys)], body(draw, n))
        for n, (at, name) in enumerate(_times(phases))
    ]


def burst(count: int, keys: Sequence[str], draw: random.Random) -> list[Arrival]:
    """All at once."""
    return [Arrival(0.0, "burst", keys[n % len(keys)], body(draw, n)) for n in range(count)]


def _times(phases: Sequence[Phase]) -> Iterator[tuple[float, str]]:
    start = 0.0
    for phase in phases:
        for n in range(max(1, round(phase.rate * phase.seconds))):
            yield start + n / phase.rate, phase.name
        start += phase.seconds
