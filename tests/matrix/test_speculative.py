"""Speculative decoding: drafts are steered with the tokens, and counted only if they are kept.
Under asynchronous scheduling the device alone knows where they are.

In processes of their own: vLLM's `triton_utils/dispatcher.py` fails at the next engine of a process
that has numba, which n-grams need.
"""

from dataclasses import replace
from typing import Any

import pytest

from steersman.steering.plan import Plan, PositionRule
from tests.support.engine.engine import Ask
from tests.support.matrix import judge, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.questions import one
from tests.support.matrix.results import way
from tests.support.standin import asynchronous_environment, v2_environment

LONG = 48


@pytest.fixture(scope="module")
def asks(bench: Bench) -> list[Ask]:
    """Prompts that repeat themselves, and answers long enough to do so too: n-grams find drafts."""
    found = []
    for n, ask in enumerate(bench.asks):
        length = max(len(ask.prompt), 30)
        found.append(Ask((ask.prompt[:7] * length)[:length], ask.plan, LONG - n))
    return found


@pytest.fixture(scope="module")
def expected_long(bench: Bench, asks: list[Ask]) -> dict[str, Any]:
    found: dict[str, Any] = bench.here(asks=asks)["standard"]
    judge.standard(asks, found, found)
    return found


def drafted(found: dict[str, Any]) -> tuple[int, int]:
    """(drafts, those of them that were kept)."""
    metrics = found["metrics"]
    drafts = int(metrics["vllm:spec_decode_num_draft_tokens"])
    return drafts, int(metrics["vllm:spec_decode_num_accepted_tokens"])


def check(asks: list[Ask], found: dict[str, Any], expected: dict[str, Any]) -> str:
    """All but the bits of neighbours: how many drafts a request has decides the batch's shape, and
    they hang on its own tokens, so a step with steered neighbours is another step."""
    worst = max(
        judge.same(found[name], expected[wanted])
        for name, wanted in (
            ("mixed", "mixed"), ("again", "mixed"), ("once_more", "mixed"),
            ("unsteered", "unsteered"),
        )
    )  # fmt: skip
    judge.steering_shows(asks, found["mixed"], found["unsteered"])
    for answers in (found["mixed"], found["again"], found["once_more"]):
        judge.counts(asks, answers)
    judge.idle(found["before"], found["after"], 1)
    drafts, kept = drafted(found)
    assert 0 < kept < drafts
    return f"{judge.words(worst)}; {drafts} drafts, {kept} kept, the others not counted"


def draft_model(bench: Bench) -> dict[str, Any]:
    return {"method": "draft_model", "model": str(bench.model), "num_speculative_tokens": 3}


@pytest.mark.engine
def test_ngram(bench: Bench, asks: list[Ask], expected_long: dict[str, Any]) -> None:
    with way("speculative decoding, n-grams") as row:
        speculation = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3,
                       "prompt_lookup_min": 1}  # fmt: skip
        found = bench.apart(asks=asks, speculative_config=speculation)["standard"]
        row.steered(check(asks, found, expected_long))


@pytest.mark.matrix
def test_draft_model(bench: Bench, asks: list[Ask], expected_long: dict[str, Any]) -> None:
    """The model drafts for itself, unsteered: right for its neighbours, often wrong for itself."""
    with way("speculative decoding, draft model") as row:
        found = bench.apart(asks=asks, speculative_config=draft_model(bench))["standard"]
        row.steered(check(asks, found, expected_long))


@pytest.mark.matrix
def test_suffix(bench: Bench, asks: list[Ask], expected_long: dict[str, Any]) -> None:
    with way("speculative decoding, suffixes") as row:
        try:
            import arctic_inference  # noqa: F401
        except ImportError:
            row.not_here("needs the package arctic-inference; drafts reach us as n-grams do")
            return
        speculation = {"method": "suffix", "num_speculative_tokens": 4}
        found = bench.apart(asks=asks, speculative_config=speculation)["standard"]
        row.steered(check(asks, found, expected_long))


@pytest.fixture(scope="module")
def by_token(bench: Bench, asks: list[Ask]) -> list[Ask]:
    """The usual requests, and some whose additions change from one token of the answer to the next:
    by a schedule, by a tensor for each step, by a range that ends there."""
    norms = tiny.stream_norms(bench.model, tuple(range(100)))
    stepped = tiny.make_vector(bench.library, norms, tiny.HIDDEN, 3, steps=(20,))
    assert asks[0].plan
    (plain,) = asks[0].plan.vectors
    waves = tuple(0.25 * (n % 5 - 2) for n in range(30))

    def of(digest: str, layer: int, positions: PositionRule = "generation", **more: Any) -> Plan:
        return Plan((replace(one(digest, 0.5, (layer,), positions), **more),))

    scheduled = of(plain.digest, 1, schedule=waves)
    steps = of(stepped, 0, "after_prompt", steps=20)
    plans = [
        scheduled, steps, of(stepped, 2, steps=20, hold=True), of(plain.digest, 2, (-2, 60)),
        Plan((*scheduled.vectors, *steps.vectors, *of(plain.digest, 2, (-5, 80)).vectors)),
    ]  # fmt: skip
    return asks + [replace(ask, plan=plan) for ask, plan in zip(asks[1:], plans, strict=False)]


@pytest.fixture(scope="module")
def expected_by_token(bench: Bench, by_token: list[Ask]) -> dict[str, Any]:
    found: dict[str, Any] = bench.here(asks=by_token)["standard"]
    return found


RUNNERS = {"V1": {}, "V2": v2_environment()}


@pytest.mark.matrix
@pytest.mark.parametrize("runner", RUNNERS)
def test_asynchronously(
    bench: Bench, by_token: list[Ask], expected_by_token: dict[str, Any], runner: str
) -> None:
    """Not by n-grams: those that run asynchronously take pinned memory on V1, and on V2 a mask that
    Triton's interpreter does not know."""
    with way(f"async scheduling with speculative decoding, model runner {runner}") as row:
        found = bench.apart(
            {"standard": {}, "is_v2": {}, "scheduling": {}},
            environment=RUNNERS[runner] | asynchronous_environment(),
            asks=by_token,
            async_scheduling=True,
            speculative_config=draft_model(bench),
        )
        assert found["scheduling"]["async"] is True
        assert found["is_v2"] is (runner == "V2")
        row.steered(check(by_token, found["standard"], expected_by_token))
