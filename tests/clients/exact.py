"""lm-eval's log-likelihoods of a task, and what Hugging Face with hooks makes of the same texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from steersman.vectors.file.format import SteeringVector, read_vector
from tests.clients.compare import ASK, Known
from tests.reference.reference import ReferenceModel, Term

PROGRAM: Final = "lm_eval_task.py"
WITHIN: Final = 5e-4
"""Nats by which a log-likelihood of a few tokens may differ from Hugging Face's with hooks."""


def known(model: str, content: bytes) -> Known:
    """The log-likelihoods of the task's choices by the `model` in this folder, unsteered and with
    the vector in the file `content` added at all positions, as JSON lists."""
    reference, vector = ReferenceModel(model), read_vector(content)
    return Known(
        *(json.dumps(scores(model, reference, terms)) for terms in ([], everywhere(vector)))
    )


def everywhere(vector: SteeringVector) -> list[Term]:
    """The additions of `vector` at its own layers, at every token."""
    return [
        Term(site, layer, float(ASK["coefficient"]), torch.as_tensor(tensor), "all")
        for (site, layer), tensor in vector.tensors.items()
        if layer in vector.layers
    ]


def scores(model: str, reference: ReferenceModel, terms: Sequence[Term]) -> list[float]:
    """The log-likelihood of each choice behind its context, in the order of the task."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for doc in ASK["task"]:
        before = tokenizer.encode(doc["context"])
        for choice in doc["choices"]:
            whole = tokenizer.encode(doc["context"] + choice)
            logs = reference.steered_logprobs(whole, len(whole), terms)
            ends = range(len(before), len(whole))
            found.append(sum(float(logs[at - 1, whole[at]]) for at in ends))
    return found


def judged(lines: Sequence[Mapping[str, str]], answers: Known) -> str:
    """How far lm-eval's scores are from those of the hooks; raises SystemExit if too far."""
    worst, count = 0.0, 0
    for line in lines:
        if line["route"] != "task":
            continue
        wanted = json.loads(answers.unsteered if line["column"] == "plain" else answers.steered)
        got = json.loads(line["text"] or "[]")
        if len(got) != len(wanted):
            raise SystemExit(f"lm-eval's scores are {got}: {line['error']}")
        far = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
        if far > WITHIN:
            raise SystemExit(f"lm-eval's scores {got} are not those of the hooks, {wanted}")
        worst, count = max(worst, far), count + 1
    if count < len(("plain", "field", "name")):
        raise SystemExit("lm-eval did not run its task")
    return (
        f"lm-eval's log-likelihoods of the {len(wanted)} choices of its task, unsteered and "
        f"steered, differ from those of Hugging Face with hooks by {worst:.1e} nats at most."
    )
