"""Directional ablation on the server, against Hugging Face's model with hooks."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from steersman.vectors.file.format import read_vector
from steersman.vectors.tensors import HookPoint
from tests.http.test_extract import LAYERS, extract, states
from tests.reference.interventions import Intervened, Intervention
from tests.reference.methods import ablation
from tests.reference.reference import ReferenceModel
from tests.support.http.client import Client

THINGS = ["a bridge", "the sea", "an old clock", "winter", "a market", "bread", "a cat", "trains"]
SIDES = {
    "positive": [f"Answer with a numbered list of facts about {thing}." for thing in THINGS],
    "negative": [f"Tell me a story about {thing}." for thing in THINGS],
}
TOP = 20


@pytest.fixture
def made(client: Client) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        client.http.delete(f"/v1/steering/vectors/{name}")


def test_the_direction_and_what_its_trial_measured(
    client: Client, made: list[str], model: Path
) -> None:
    job = extract(
        client, made, name="lists", method="directional_ablation", layers=[8, 14, 20],
        settings={"candidates": 4}, seed=3, **SIDES,
    )  # fmt: skip
    assert job["bad_rows"] == []
    assert job["progress"]["done"] == job["progress"]["total"]
    vector = client.http.get("/v1/steering/vectors/lists").json()
    assert (vector["operation"], vector["coefficient"], vector["positions"]) == (
        "project", 1.0, "all",
    )  # fmt: skip
    assert vector["layers"] == list(range(LAYERS))
    quality = vector["method_settings"]["quality"]
    trials, chosen, held = quality["trials"], quality["chosen"], quality["held_out"]
    assert len(trials) == 4
    assert chosen in trials
    assert {trial["layer"] for trial in trials} <= {8, 14, 20}
    sound = [trial for trial in trials if trial["kl"] <= 0.1]
    assert chosen == min(sound or trials, key=lambda trial: trial["bypass" if sound else "kl"])
    assert set(quality["null"]) == {"shuffles", "bypass", "kl"}
    assert (quality["recommended"] is None) == ("reason" in quality)

    tokenizer = AutoTokenizer.from_pretrained(model)
    reference = ReferenceModel(model)
    prompts = {side: [ids(tokenizer, text) for text in texts] for side, texts in SIDES.items()}
    behind = ids(tokenizer, "a"), ids(tokenizer, "b")
    same = next(n for n in range(99) if behind[0][-1 - n] != behind[1][-1 - n])
    assert job["samples"][0]["tokens"] == same

    means = []
    for side, every in prompts.items():
        known = [one for n, one in enumerate(every, 1) if n not in held[side]]
        assert 2 <= len(held[side]) < len(every)
        rows = [states(reference, one)[chosen["layer"], chosen["position"]] for one in known]
        means.append(np.mean(rows, axis=0, dtype=np.float64))
    expected = torch.tensor(means[0] - means[1])
    expected /= expected.norm()
    content = client.http.get("/v1/steering/vectors/lists/content").content
    tensors = read_vector(content).tensors
    for layer in range(LAYERS):
        found = tensors[HookPoint("resid_post", layer)].double()
        assert float(found @ expected) >= 0.9999

    out = [
        Intervention("project", "resid_post", layer, 1.0, {"v": expected.float()}, positions="all")
        for layer in range(LAYERS)
    ]
    behaviour = [token["id"] for token in quality["behaviour"]]
    bypass = [
        ablation.odds(after(reference, prompts["positive"][n - 1], out), behaviour)
        for n in held["positive"]
    ]
    assert chosen["bypass"] == pytest.approx(fmean(bypass), abs=0.02)
    kl = []
    for n in held["negative"]:
        tokens = prompts["negative"][n - 1]
        plain = after(reference, tokens, [])
        kl.append(ablation.lumped(plain, after(reference, tokens, out), TOP))
    assert chosen["kl"] == pytest.approx(fmean(kl), rel=0.02, abs=2e-3)
    plain_odds = [
        ablation.odds(after(reference, prompts["positive"][n - 1], []), behaviour)
        for n in held["positive"]
    ]
    assert quality["baseline"]["positive"] == pytest.approx(fmean(plain_odds), abs=0.02)
    assert chosen["bypass"] < quality["baseline"]["positive"]


def ids(tokenizer: Any, text: str) -> list[int]:
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(said, add_special_tokens=False).input_ids)


def after(
    reference: ReferenceModel, tokens: list[int], interventions: list[Intervention]
) -> torch.Tensor:
    """Log-probabilities of the token after the prompt: [vocab]."""
    return Intervened(reference).logprobs(tokens, len(tokens), interventions)[-1]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"settings": {"candidates": 0}}, "settings.candidates"),
        ({"settings": {"candidates": 2.5}}, "settings.candidates"),
        ({"settings": {"candidates": True}}, "settings.candidates"),
        ({"tokens": "last"}, "tokens"),
        ({"site": "mlp_out"}, "site"),
        ({"unit_dose": 0.2}, "unit_dose"),
        ({"negative": SIDES["negative"][:1]}, "negative"),
    ],
)
def test_what_cannot_be_done_is_refused(client: Client, change: dict[str, Any], param: str) -> None:
    body = {"name": "x", "method": "directional_ablation", **SIDES}
    answer = client.http.post("/v1/steering/vectors/extract", json=body | change)
    assert answer.status_code == 400, json.dumps(answer.json())
    assert answer.json()["error"]["param"] == param
