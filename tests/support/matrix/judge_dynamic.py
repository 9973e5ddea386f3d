"""Dynamic composition in any way of running, against the reference."""

from typing import Any

from steersman.steering.plan import Plan
from tests.reference.dynamic import Property, compose
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Ask
from tests.support.matrix.bench import Bench


def furthest_choice(bench: Bench, found: dict[str, Any]) -> float:
    """What the exam `dynamic` found: the largest difference of a coefficient or divergence. The
    tokens must be equal, and no worker may have anything left."""
    reference, worst = ReferenceModel(bench.model), 0.0
    rows = zip(found["asks"], found["tokens"], found["choices"], strict=True)
    for (prompt, plan, tokens), said, choices in rows:
        ask = Ask(tuple(prompt), Plan.from_json(plan), tokens)
        assert ask.plan is not None
        assert ask.plan.dynamic is not None
        properties = []
        for vector in ask.plan.vectors:
            terms = bench.terms(Ask(ask.prompt, Plan((vector,)), tokens))
            tensors = {(term.site, term.layer): term.vector for term in terms}
            properties.append(Property(tensors, vector.coefficient))
        dynamic = ask.plan.dynamic
        wanted = compose(
            reference, ask.prompt, properties, tokens,
            start=dynamic.start, top_p=dynamic.top_p, mean=dynamic.mean,
        )  # fmt: skip
        assert list(said) == wanted.tokens
        for (coefficients, divergences), c, d in zip(
            choices, wanted.coefficients, wanted.divergences, strict=True
        ):
            pairs = zip([*coefficients, *divergences], [*c, *d], strict=True)
            worst = max(worst, *(abs(x - y) for x, y in pairs))
        assert max(map(max, wanted.coefficients)) > 0.01
    for worker in found["after"]:
        assert worker["requests"] == worker["companions"] == worker["bank_rows_used"] == 0
    return worst
