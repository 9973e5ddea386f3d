"""Speculative decoding: drafts are steered with the tokens, and counted only if they are kept.

In processes of their own: vLLM's `triton_utils/dispatcher.py` fails at the next engine of a process
that has numba, which n-grams need.
"""

from typing import Any

import pytest

from tests.support.engine.engine import Ask
from tests.support.matrix import judge
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way

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
        speculation = {"method": "draft_model", "model": str(bench.model),
                       "num_speculative_tokens": 3}  # fmt: skip
        found = bench.apart(asks=asks, speculative_config=speculation)["standard"]
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
