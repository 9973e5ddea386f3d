"""Requests with gates and markers for the matrix, and what is compared of their answers."""

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from steersman.steering.plan import Plan
from steersman.steering.plan.receipt import GateCount
from steersman.steering.plan.when.gates import MEASURES, OVERS
from steersman.vectors.tensors import HookPoint
from tests.reference.reference import ReferenceModel
from tests.support.engine import gates
from tests.support.engine.engine import Ask
from tests.support.matrix import judge

TOKENS = 24
CLEAR = 2 * gates.TOLERANCE
"""How far from its threshold a measure is at the least: no way of running may see it otherwise."""


def prompt_of(number: int, length: int) -> tuple[int, ...]:
    """A prompt that repeats itself, so that n-grams find drafts."""
    chance = random.Random(number)
    return tuple((chance.choices(range(1, 500), k=7) * length)[:length])


def asks_of(making: gates.Making, reference: ReferenceModel) -> list[Ask]:
    """Each kind of gate at each measure, markers in the prompt, over its end and in the answer, one
    with a gate, and neighbours that nobody steers."""
    found: list[Ask] = []
    terms = (HookPoint("resid_post", 1), HookPoint("resid_post", 2))
    point = HookPoint("resid_post", 0)
    number = 0
    for over in OVERS:
        for measure in MEASURES:
            number += 1
            prompt = prompt_of(number, 31 + 4 * number)
            share = 0.6 if number % 2 else 0.3
            gate = making.gate(prompt, point, measure, over, share, below=number % 3 == 0)
            rule = ("all" if number % 2 else "answer:2:") if over == "token" else "generation"
            name = ("add", "project", "rotate")[number % 3]
            coefficient = 0.2 if name == "add" else 0.7
            used = making.operations.planned(name, 0, coefficient, terms, rule)
            second = making.operations.planned("add", 1, 0.1, terms[1:], "prompt")
            found.append(Ask(prompt, Plan((replace(used, gate=gate), second)), TOKENS))
            if number % 2:
                found.append(Ask(prompt_of(50 + number, 20 + number), None, TOKENS))
    prompt = prompt_of(70, 45)
    answer = reference.greedy(prompt, TOKENS)
    at = next(n for n in range(3, TOKENS) if answer[n] not in (*prompt, *answer[:n]))
    rules = (
        f"after:{prompt[5]}",
        f"after:{prompt[-1]},{answer[0]}",
        f"after:{answer[at]}",
        f"until:{answer[at - 1]},{answer[at]}",
    )
    for n, rule in enumerate(rules):
        vector = making.operations.planned("add", 1, 0.15, terms, rule)
        if n == 2:
            told = making.gate(prompt, point, "cosine", "token", 0.5)
            vector = replace(vector, gate=told)
        found.append(Ask(prompt, Plan((vector,)), TOKENS))
    return found


def against_reference(
    making: gates.Making, reference: ReferenceModel, asks: Sequence[Ask], answers: judge.Answers
) -> float:
    """The largest difference of a log-probability from Hugging Face's. Decisions, counts and what
    was measured are compared, and no measure may be as good as its threshold."""
    worst, decided = 0.0, []
    for ask, answer in zip(asks, answers, strict=True):
        if ask.plan is None:
            continue
        (counted,), (counts,) = answer["counted"], answer["gates"]
        likeliest = [{int(t): x for t, x in one.items()} for one in answer["logprobs"]]
        said: Any = SimpleNamespace(tokens=answer["tokens"], logprobs=likeliest, prompt_logprobs=())
        note: Any = SimpleNamespace(
            gates=[GateCount(*one) for one in counts], steered_tokens=counted
        )
        difference, near, passed = gates.judge(making.told(ask), said, [note], reference)
        assert near > CLEAR, (ask.plan, near)
        worst = max(worst, difference)
        decided += passed
    assert any(all(one) for one in decided)
    assert any(not any(one) for one in decided)
    assert sum(any(one) and not all(one) for one in decided) > 2
    assert worst <= judge.CLOSE
    return worst


def standard(
    asks: Sequence[Ask],
    found: dict[str, Any],
    expected: dict[str, Any],
    workers: int = 1,
    *,
    drafts: bool = False,
) -> float:
    """As `judge.standard`, with what the gates counted and decided in place of the positions. With
    `drafts`, a step with steered neighbours has another shape, so their last bits are not
    compared."""
    worst = judge.same(found["unsteered"], expected["unsteered"])
    for name in ("mixed", "again", "once_more"):
        worst = max(worst, judge.same(found[name], expected["mixed"]))
        for answer, wanted in zip(found[name], expected["mixed"], strict=True):
            if answer["cached"] == 0:
                assert answer["counted"] == wanted["counted"]
                for counts, others in zip(answer["gates"], wanted["gates"], strict=True):
                    values = [[x or 0.0 for *_, x in one] for one in (counts, others)]
                    assert [one[:3] for one in counts] == [one[:3] for one in others]
                    torch.testing.assert_close(*map(torch.tensor, values), atol=1e-3, rtol=1e-3)
    moved = [
        a["logprobs"] != b["logprobs"]
        for a, b in zip(found["mixed"], found["unsteered"], strict=True)
    ]
    assert sum(moved) > len(asks) // 3
    if not drafts:
        judge.neighbours(asks, found["mixed"], found["unsteered"])
    judge.idle(found["before"], found["after"], workers)
    return worst
