"""Each preset of the demo moves its own measure, over the demo's prompts, against no steering."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import pytest

from steersman.vectors.demo.make import make_vectors
from steersman.vectors.demo.presets import load_presets
from tests.support.http.client import Client
from tools.demo.measures import MEASURES, PROMPTS

PREFIX = "demo-"
MOVES = {
    "curious": {"questions": 0.2},
    "memoir": {"past": 0.3, "first_person": 2.5},
    "stargazer": {"space": 1.0},
    "stern": {"formal": 0.15, "cheerful": -0.3},
    "sunny": {"cheerful": 0.2},
}
"""By preset: how far it moves which measures, at least. The sign is that of the coefficient."""


@pytest.fixture(scope="module")
def prefixed(client: Client, model: Path) -> Iterator[None]:
    """The demo's vectors and presets, under names that no other test uses."""
    for path in make_vectors(model, model.parent / f"{model.name}-vectors"):
        assert client.upload(path.read_bytes(), f"{PREFIX}{path.stem}").status_code == 201
    for name, preset in load_presets().items():
        vectors = {f"{PREFIX}{vector}": c for vector, c in preset.vectors.items()}
        body = {"name": f"{PREFIX}{name}", "steering": {"vectors": vectors}}
        assert client.http.post("/v1/steering/presets", json=body).status_code == 201
    yield
    for name in load_presets():
        client.http.delete(f"/v1/steering/presets/{PREFIX}{name}")
    for path in make_vectors(model, model.parent / f"{model.name}-vectors"):
        client.http.delete(f"/v1/steering/vectors/{PREFIX}{path.stem}")


def answers(client: Client, model: str) -> list[str]:
    def ask(prompt: str) -> str:
        return client.chat_text(prompt, model=model, max_tokens=48)

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(ask, PROMPTS))


@pytest.fixture(scope="module")
def plain(client: Client) -> list[str]:
    return answers(client, "smollm2")


def test_the_presets_are_these() -> None:
    assert MOVES.keys() == load_presets().keys()
    for name, preset in load_presets().items():
        assert MOVES[name].keys() == preset.vectors.keys()


@pytest.mark.parametrize("name", MOVES)
def test_it_moves_what_it_names(
    name: str, client: Client, prefixed: None, plain: list[str]
) -> None:
    texts = answers(client, f"smollm2:{PREFIX}{name}")
    for vector, least in MOVES[name].items():
        of = MEASURES[vector].of
        moved = fmean(map(of, texts)) - fmean(map(of, plain))
        assert moved * (1 if least > 0 else -1) >= abs(least), (vector, moved, texts[:3])
