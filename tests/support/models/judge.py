"""Stage three: how far vLLM's answers are from Hugging Face's."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.models.family import Family
from tests.support.models.reference import Reference


def judge(family: Family, place: Path) -> None:
    """Writes found.json: `sites` and `layers` of the engine; `unsteered`: the largest difference in
    log-probabilities with nothing added, before and after; `steered`: for each "<site>.<layer>"
    that difference (`off`), and how far steering moved them (`moved`). `own_activation`:
    `unsteered` with Hugging Face's own activation, where vLLM has another."""
    reference = Reference(family, place)
    seen = json.loads((place / "answers.json").read_text())
    vectors = torch.load(place / "vectors.pt")
    answers = seen["answers"]
    found = {"sites": seen["sites"], "layers": seen["layers"], "steered": {}}

    def unsteered() -> float:
        return max(
            furthest(answers[name], reference.logprobs(answers[name]["tokens"]))
            for name in ("", "again")
        )

    if family.activation != ("", ""):
        found["own_activation"] = unsteered()
        reference.take_activation_of_vllm()
    found["unsteered"] = unsteered()
    for (site, layer), vector in vectors.items():
        answer = answers[f"{site}.{layer}"]
        expected = reference.steered_logprobs(answer["tokens"], site, layer, vector)
        found["steered"][f"{site}.{layer}"] = {
            "off": furthest(answer, expected),
            "moved": furthest(answer, reference.logprobs(answer["tokens"])),
        }
    (place / "found.json").write_text(json.dumps(found))


def furthest(answer: dict[str, Any], expected: Tensor) -> float:
    """Largest difference of an answer's log-probabilities from `expected` [tokens, vocabulary]."""
    distances: list[float] = [
        abs(logprob - float(expected[position, int(token)]))
        for position, likeliest in enumerate(answer["logprobs"])
        for token, logprob in likeliest.items()
    ]
    return max(distances)
