"""Requests with gates and markers, in plans and as the reference has them."""

import random
from dataclasses import dataclass, replace

import pytest
import torch

from steersman.steering.plan import Plan, PlannedVector, PositionRule, WorkerNote
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.when.gates import (
    MEASURES,
    OVERS,
    Measure,
    Over,
    PlannedGate,
    comes_first,
)
from steersman.vectors.operation import OPERATIONS
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import SITES
from tests.reference import interventions as slow
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Answer, Ask
from tests.support.engine.operations import SETTINGS, Operations
from tests.support.engine.v2_asks import prompt as random_prompt
from tests.support.matrix import tiny

TOLERANCE = 1e-4
EVERYWHERE = (*SITES, "resid_mid")
GATE = 77
"""Seed of the vectors that gates measure with."""


@dataclass(frozen=True)
class Case:
    """A request with gates, and the same in the words of the reference."""

    ask: Ask
    ones: list[slow.Intervention]
    owners: list[int]
    """For each of `ones`, the index of its vector in the plan."""


class Making:
    """Makes requests with gates whose thresholds lie among what is measured."""

    def __init__(self, operations: Operations, reference: ReferenceModel) -> None:
        self.operations, self.reference = operations, reference

    def direction(self, point: HookPoint, seed: int = GATE) -> torch.Tensor:
        found: torch.Tensor = self.operations.vector("project", seed).tensors[point]
        return found

    def gate(
        self,
        tokens: tuple[int, ...],
        point: HookPoint,
        measure: Measure,
        over: Over,
        share: float,
        *,
        below: bool = False,
        seed: int = GATE,
    ) -> PlannedGate:
        """A gate with this `share` of the prompt's unsteered values under its threshold."""
        told = slow.Gate(*point, self.direction(point, seed), measure, 0.0)
        stream: list[torch.Tensor] = []
        intervened = slow.Intervened(self.reference)

        def keep(h: torch.Tensor) -> torch.Tensor:
            stream.append(h.clone())
            return h

        handle = intervened._hook(*point, keep)
        self.reference.steered_logprobs(tokens, len(tokens))
        handle.remove()
        values = sorted(told.value(h) for h in stream[0])
        if over == "token":
            at = min(int(share * len(values)), len(values) - 1)
            threshold = (values[at] + values[max(0, at - 1)]) / 2
        else:
            spread = values[-1] - values[0] + abs(values[0]) + 0.1
            own = replace(told, over=over).values(stream[0], len(tokens))[0]
            threshold = own + (0.1 if share < 0.5 else -0.1) * spread
        digest = self.operations.vector("project", seed).digest
        return PlannedGate(digest, point, measure, as_float32(threshold), below, over)

    def case(self, chance: random.Random) -> Case:
        length = chance.choice((1, 2, 5, 17, 31, 33, 48, 70))
        prompt = random_prompt(chance.randrange(10**6), length)
        vectors: list[PlannedVector] = []
        for _ in range(chance.randint(1, 3)):
            name = chance.choice([name for name in OPERATIONS if name != "replace"])
            sites = chance.sample(EVERYWHERE, chance.randint(1, 2))
            layers = chance.sample(range(tiny.LAYERS), chance.randint(1, 2))
            terms = tuple(sorted(HookPoint(s, n) for s in sites for n in layers))
            points = [
                HookPoint(s, n)
                for s in EVERYWHERE
                for n in range(tiny.LAYERS)
                if all(comes_first(HookPoint(s, n), term, sequential=True) for term in terms)
            ]
            over = chance.choice(OVERS)
            rules: list[PositionRule] = ["generation", "after_prompt", "answer:1:"]
            if over == "token":
                rules += ["all", "prompt"]
            planned = self.operations.planned(
                name,
                chance.randint(0, 2),
                chance.uniform(-0.3, 0.3) if name == "add" else chance.uniform(0.2, 1),
                terms,
                chance.choice(rules),
                chance.choice(SETTINGS[name]),
            )
            gate = None
            if points and chance.random() < 0.9:
                gate = self.gate(
                    prompt,
                    chance.choice(points),
                    chance.choice(MEASURES),
                    over,
                    chance.random(),
                    below=chance.random() < 0.5,
                )
            vectors.append(replace(planned, gate=gate))
        plan = Plan(tuple(vectors), keep_norm=chance.random() < 0.2)
        return self.told(Ask(prompt, plan, 6, prompt_logprobs=True))

    def told(self, ask: Ask) -> Case:
        ones, owners = [], []
        assert ask.plan is not None
        for n, vector in enumerate(ask.plan.vectors):
            gate = vector.gate
            own = None
            if gate is not None:
                direction = self.direction(gate.point)
                own = slow.Gate(
                    *gate.point,
                    direction,
                    gate.measure,
                    gate.threshold,
                    gate.below,
                    gate.over,
                )
            for one in self.operations.interventions(replace(vector, gate=None)):
                ones.append(replace(one, gate=own))
                owners.append(n)
        return Case(ask, ones, owners)


def judge(
    case: Case, answer: Answer, notes: list[WorkerNote], reference: ReferenceModel
) -> tuple[float, float, list[list[bool]]]:
    """(largest difference of a log-probability, nearest that a measure came to its threshold, what
    each gate decided at the tokens of its use). The receipt is compared."""
    prompt, plan = case.ask.prompt, case.ask.plan
    assert plan is not None
    tokens = [*prompt, *answer.tokens]
    measured: dict[int, list[float]] = {}
    expected = slow.Intervened(reference).logprobs(
        tokens, len(prompt), case.ones, keep_norm=plan.keep_norm, measured=measured
    )
    difference = max(
        abs(logprob - float(expected[position, token]))
        for position, likeliest in enumerate(
            [*answer.prompt_logprobs, *answer.logprobs],
            start=0 if answer.prompt_logprobs else len(prompt) - 1,
        )
        for token, logprob in likeliest.items()
    )
    near, decided = float("inf"), []
    (note,) = notes
    computed = len(tokens) - 1
    for k, n in enumerate(plan.conditional):
        if (gate := plan.vectors[n].gate) is None:
            continue
        number = case.owners.index(n)
        names = case.ones[number].positions
        values = [
            value
            for t, value in enumerate(measured[number][:computed])
            if slow.is_at(t, len(prompt), names, tokens)
        ]
        own = case.ones[number].gate
        assert own is not None
        passed = [own.passes(value) for value in values]
        decided.append(passed)
        near = min([near, *(abs(value - gate.threshold) for value in values)])
        if near > TOLERANCE:
            count = note.gates[k]
            assert (count.tokens, count.passed) == (len(values), sum(passed))
            assert note.steered_tokens[n] == sum(passed)
            if gate.latched:
                assert count.value == pytest.approx(measured[number][0], abs=1e-3)
                assert count.decision == own.passes(measured[number][0])
    return difference, near, decided
