"""A condition made by the server, against Hugging Face's hidden states, and the gate that it is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.http.test_extract import LAYERS, extract, states, tensors
from tests.reference.methods import condition
from tests.reference.reference import ReferenceModel
from tests.support.http.client import Client

SPACE = [
    "How far is the moon from the earth?",
    "What are the rings of Saturn made of?",
    "Which planet has the most moons, and how many of them are known by now?",
    "Why do stars twinkle?",
    "How hot is the surface of the sun?",
    "What is a black hole, and can anything get out of it again?",
    "Who was the first astronaut to walk in space?",
    "How long does a rocket take to reach Mars, and why not all year round?",
    "What is a comet's tail?",
    "How old is the universe, and how do astronomers know?",
]
KITCHEN = [
    "How long do I boil an egg?",
    "What goes into a good tomato soup?",
    "Which flour is best for bread, and how long should the dough rest?",
    "Why do onions make me cry?",
    "How hot should the oven be for a cake?",
    "What is a roux, and can I make it without any butter at all?",
    "Who invented the sandwich?",
    "How long does rice take to cook, and why does it stick to the pot?",
    "What is a bay leaf for?",
    "How do I keep basil fresh, and how do cooks chop it?",
]


@pytest.fixture(scope="module")
def prompts(model: Path) -> dict[str, list[list[int]]]:
    """Token ids of the chats, as a request has them."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(question: str) -> list[int]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    return {"positive": [ids(q) for q in SPACE], "negative": [ids(q) for q in KITCHEN]}


@pytest.fixture
def made(client: Client) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        client.http.delete(f"/v1/steering/vectors/{name}")


@pytest.fixture
def late(client: Client, made: list[str], make_vector: Callable[..., bytes]) -> str:
    """A vector behind every layer at which a gate may be."""
    made.append("late")
    assert client.upload(make_vector(3, layers=(LAYERS - 1,)), "late").status_code == 201
    return "late"


def test_direction_threshold_and_gate(
    client: Client, made: list[str], model: Path, prompts: dict[str, list[list[int]]], late: str
) -> None:
    job = extract(
        client, made, name="space", method="cast_condition", positive=SPACE, negative=KITCHEN
    )
    assert job["bad_rows"] == []
    assert job["samples"][0]["tokens"] == len(prompts["positive"][0])

    reference = ReferenceModel(model)
    means = {
        side: np.stack([states(reference, ids).mean(1, np.float64) for ids in prompts[side]])
        for side in prompts
    }
    found = tensors(client, "space")
    scores = {}
    for layer in range(LAYERS):
        plus, minus = (means[side][:, layer] for side in ("positive", "negative"))
        expected = condition.component(plus, minus)
        expected *= np.sign(expected @ (plus.mean(0) - minus.mean(0)))
        assert float(expected @ found[layer]) >= 0.9999
        scores[layer] = [
            [condition.cast(h.tolist(), expected.tolist()) for h in side] for side in (plus, minus)
        ]

    vector = client.http.get("/v1/steering/vectors/space").json()
    how = vector["method_settings"]
    gate, quality = how["gate"], how["quality"]
    assert vector["layers"] == [gate["layer"]]
    assert how["tokens"] == "prompt"
    for layer, (inside, outside) in scores.items():
        expected_f1 = condition.best_f1(inside, outside)
        assert quality["f1"][f"resid_post.{layer}"] == pytest.approx(expected_f1, abs=1e-9)
    best = quality["held_out_f1"][f"resid_post.{gate['layer']}"]
    assert best == max(quality["held_out_f1"].values())
    assert set(quality["null"]["held_out_f1"]) == {"mean", "sd"}
    looked = client.http.get("/v1/steering/vectors/space/inspect").json()
    assert (looked["recommended"], looked["not_recommended"]) == (
        quality["recommended"],
        quality.get("reason"),
    )

    # Pasted into requests it measures what it was made of, and decides as it was counted.
    passed = []
    for side, questions in enumerate((SPACE, KITCHEN)):
        for n, question in enumerate(questions):
            answer = asked(client, question, gate, late)
            (said,) = (one["gate"] for one in answer["steering"]["vectors"])
            expected_value = scores[gate["layer"]][side][n]
            assert said["value"] == pytest.approx(expected_value, rel=2e-3, abs=1e-4)
            passed.append(said["passed"])
    wanted = [True] * len(SPACE) + [False] * len(KITCHEN)
    assert condition.f1(passed, wanted) == pytest.approx(
        quality["f1"][f"resid_post.{gate['layer']}"]
    )


def asked(client: Client, question: str, gate: dict[str, Any], steered: str) -> dict[str, Any]:
    use = {"id": steered, "coefficient": 0.5, "gate": {"id": "space", **gate}}
    answer = client.chat(question, steering={"vectors": [use]}, max_tokens=2)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_last_tokens_make_a_gate_over_them(client: Client, made: list[str]) -> None:
    extract(
        client, made, name="space", method="cast_condition", tokens="last", layers=[4, 9],
        settings={"direction": "mean_difference"}, positive=SPACE, negative=KITCHEN,
    )  # fmt: skip
    how = client.http.get("/v1/steering/vectors/space").json()["method_settings"]
    assert how["gate"]["over"] == "prompt_last"
    assert how["direction"] == "mean_difference"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"settings": {"direction": "best"}}, "settings.direction"),
        ({"settings": {"threshold": 0.5}}, "settings.threshold"),
        ({"tokens": "mean"}, "tokens"),
        ({"unit_dose": 0.2}, "unit_dose"),
        ({"negative": SPACE}, "pairs"),
        ({"negative": SPACE[:1]}, "negative"),
    ],
)
def test_what_makes_no_condition_is_refused(
    client: Client, change: dict[str, Any], param: str
) -> None:
    body = {"name": "x", "method": "cast_condition", "positive": SPACE, "negative": KITCHEN}
    answer = client.http.post("/v1/steering/vectors/extract", json=body | change)
    assert answer.status_code == 400, json.dumps(answer.json())
    assert answer.json()["error"]["param"] == param
