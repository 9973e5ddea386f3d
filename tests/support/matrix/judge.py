"""Comparing what a way of running answered with what the plain engine answers."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from steersman.steering.plan import Plan
from steersman.steering.plan.wire.readouts import ReadChunk
from tests.reference.dynamic import Property, compose
from tests.reference.interventions import Intervened
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Ask, furthest
from tests.support.engine.reads import Case, furthest_read
from tests.support.matrix import tiny
from tests.support.matrix.bench import Bench

CLOSE = 1e-4
"""Largest difference of a log-probability between ways of running."""
PLAIN = 100 * CLOSE
"""What steering moves log-probabilities by, at the least, in half of the steered answers."""

Answers = Sequence[dict[str, Any]]


def same(answers: Answers, expected: Answers, key: str = "logprobs") -> float:
    """Worst difference of log-probabilities; asserts equal tokens and that it is within `CLOSE`."""
    worst = 0.0
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["tokens"] == wanted["tokens"]
        assert answer["reason"] == wanted["reason"]
        worst = max(worst, furthest(answer[key], wanted[key]))
    assert worst <= CLOSE
    return worst


def words(worst: float) -> str:
    """A difference from the plain engine, for the table."""
    return f"within {worst:.0e}" if worst else "the same to the last bit"


def steering_shows(asks: Sequence[Ask], mixed: Answers, unsteered: Answers) -> float:
    """How far steering moves a request's log-probabilities, at the least (median over steered
    requests of the largest): without this, an engine that adds nothing would pass. A token that
    is not among the other's likeliest is no likelier than the last of them."""
    moved: list[float] = []
    for ask, a, b in zip(asks, mixed, unsteered, strict=True):
        if ask.plan:
            assert a["logprobs"] != b["logprobs"]
            pairs = zip(a["logprobs"], b["logprobs"], strict=True)
            moved.append(max(x[t] - y.get(t, min(y.values())) for x, y in pairs for t in x))
    middle = statistics.median(moved)
    assert middle > PLAIN
    return middle


def neighbours(
    asks: Sequence[Ask], mixed: Answers, unsteered: Answers, key: str = "logprobs"
) -> None:
    """Unsteered requests answer the same to the last bit whether their neighbours are steered."""
    for ask, among_steered, among_unsteered in zip(asks, mixed, unsteered, strict=True):
        if ask.plan is None:
            assert among_steered[key] == among_unsteered[key]
            assert among_steered["tokens"] == among_unsteered["tokens"]


def counts(asks: Sequence[Ask], answers: Answers) -> None:
    """`steered_tokens` is what the plan says of the tokens computed: all but those from the cache
    and the last of the answer, which is sampled and never computed."""
    for ask, answer in zip(asks, answers, strict=True):
        if ask.plan is None:
            assert answer["counted"] == []
            continue
        first, last = answer["cached"], len(ask.prompt) + len(answer["tokens"]) - 1
        segments = ask.plan.segments(len(ask.prompt))
        expected = [
            sum(max(0, min(s.stop, last) - max(s.start, first)) for s in segments if n in s.active)
            for n in range(len(ask.plan.vectors))
        ]
        assert answer["counted"] == [expected]


def idle(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], workers: int) -> None:
    """No worker holds a row for a request that has gone."""
    assert len(before) == len(after) == workers
    for one, other in zip(before, after, strict=True):
        assert other["requests"] == other["bank_rows_used"] == 0
        assert other["free_table_entries"] == one["free_table_entries"] > 0


def standard(
    asks: Sequence[Ask], found: dict[str, Any], expected: dict[str, Any], workers: int = 1
) -> float:
    """All of the above for the exam `standard`; the worst difference from the plain engine."""
    worst = max(
        same(found["mixed"], expected["mixed"]),
        same(found["unsteered"], expected["unsteered"]),
        same(found["again"], expected["mixed"]),
        same(found["once_more"], expected["mixed"]),
    )
    steering_shows(asks, found["mixed"], found["unsteered"])
    neighbours(asks, found["mixed"], found["unsteered"])
    for answers in (found["mixed"], found["again"], found["once_more"]):
        counts(asks, answers)
    idle(found["before"], found["after"], workers)
    return worst


def captures(found: dict[str, Any], reference: ReferenceModel) -> float:
    """What the exam `captured` found, against Hugging Face: the largest relative difference."""
    assert found["places"] == 3 * tiny.LAYERS
    worst = 0.0
    for prompt, streams in zip(found["prompts"], found["streams"], strict=True):
        expected = reference.streams(prompt)[:, 1:].mean(dim=1)
        off = (torch.tensor(streams) - expected).norm(dim=-1) / expected.norm(dim=-1)
        worst = max(worst, float(off.max()))
    assert worst <= CLOSE
    assert found["before"] == found["after"]
    return worst


def reads(bench: Bench, found: dict[str, Any], model: ReferenceModel) -> float:
    """What the exam `reads` found, against Hugging Face: the largest difference of a cosine, and
    of a projection as a share of the stream's norm."""
    worst = 0.0
    for (prompt, plan, tokens), answer, chunks in zip(
        found["asks"], found["tokens"], found["reads"], strict=True
    ):
        asked = Ask(tuple(prompt), Plan.from_json(plan), tokens)
        assert asked.plan is not None
        vectors = {
            one.digest: bench.tensors(one.digest, list(one.terms))
            for one in asked.plan.readouts[:1]
        }
        made = [ReadChunk(n, first, bytes.fromhex(values)) for n, first, values in chunks]
        case = Case(asked, tuple(bench.terms(asked)))
        worst = max(worst, furthest_read(model, case, answer, made, vectors))
    assert found["before"] == found["after"]
    return worst


def reference(
    bench: Bench, model: ReferenceModel, answers: Answers, *, prompts: bool = False
) -> float:
    """Worst difference from an independent forward pass; asserts that it is within `CLOSE`."""
    worst = max(differences(bench, model, answers, prompts=prompts))
    assert worst <= CLOSE
    return worst


def differences(
    bench: Bench, model: ReferenceModel, answers: Answers, *, prompts: bool = False
) -> list[float]:
    """How far each log-probability is from an independent forward pass: those of the answers' own
    tokens, or with `prompts` those of the prompts'."""
    found = []
    for ask, answer in zip(bench.asks, answers, strict=True):
        tokens, length = [*ask.prompt, *answer["tokens"]], len(ask.prompt)
        keep_norm = ask.plan is not None and ask.plan.keep_norm
        expected = Intervened(model).logprobs(
            tokens, length, bench.interventions(ask), keep_norm=keep_norm
        )
        first = 0 if prompts else length - 1
        heard = answer["prompt_logprobs" if prompts else "logprobs"]
        assert len(heard) == (length - 1 if prompts else len(answer["tokens"]))
        for position, likeliest in enumerate(heard, start=first):
            for token, logprob in likeliest.items():
                found.append(abs(logprob - float(expected[position, int(token)])))
    return found


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
