"""Ways of cutting work into steps: none of them may show in an answer."""

from typing import Any

import pytest

from tests.reference.reference import ReferenceModel
from tests.support.matrix import judge
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way

BLOCK = 32


@pytest.mark.engine
def test_plain(
    bench: Bench, plain: dict[str, Any], expected: dict[str, Any], tiny_reference: ReferenceModel
) -> None:
    """What all ways are compared with: is itself compared with an independent forward pass."""
    with way("prompts in one piece, prefix cache off") as row:
        judge.standard(bench.asks, expected, expected)
        judge.same(plain["alone"]["mixed"], expected["mixed"])
        worst = judge.reference(bench, tiny_reference, expected["mixed"])
        moved = judge.steering_shows(bench.asks, expected["mixed"], expected["unsteered"])
        row.steered(
            f"Hugging Face {judge.words(worst)}, where steering moves {moved:.1f}; alone too"
        )


@pytest.mark.engine
def test_prefix_cache(bench: Bench, expected: dict[str, Any]) -> None:
    with way("prefix caching") as row:
        found = bench.here(enable_prefix_caching=True)["standard"]
        worst = judge.standard(bench.asks, found, expected)
        for ask, first, second in zip(bench.asks, found["again"], found["once_more"], strict=True):
            assert first["cached"] == 0
            assert second["cached"] == (len(ask.prompt) - 1) // BLOCK * BLOCK
        row.steered(f"{judge.words(worst)}, from the cache and not")


CHUNKS = [
    pytest.param(16, marks=pytest.mark.engine),
    pytest.param(64, marks=pytest.mark.matrix),
]


@pytest.mark.parametrize("tokens", CHUNKS)
def test_chunked_prefill(
    bench: Bench, plain: dict[str, Any], expected: dict[str, Any], tokens: int
) -> None:
    with way(f"chunked prefill, {tokens} tokens a step") as row:
        found = bench.here({"standard": {}, "prompt_logprobs": {}}, max_num_batched_tokens=tokens)
        worst = judge.standard(bench.asks, found["standard"], expected)
        mine, theirs = found["prompt_logprobs"]["mixed"], plain["prompt_logprobs"]["mixed"]
        worst = max(worst, judge.same(mine, theirs, "prompt_logprobs"))
        row.steered(f"{judge.words(worst)}, log-probabilities of prompts too")


@pytest.mark.matrix
def test_one_request_at_a_time(bench: Bench, expected: dict[str, Any]) -> None:
    with way("`--max-num-seqs 1`") as row:
        found = bench.here(max_num_seqs=1)["standard"]
        row.steered(judge.words(judge.standard(bench.asks, found, expected)))


@pytest.mark.engine
def test_preemption(bench: Bench, expected: dict[str, Any]) -> None:
    """Eight blocks of cache: requests outgrow it, are thrown out and computed again."""
    with way("preemption and resumption") as row:
        found = bench.here(num_gpu_blocks_override=9, max_model_len=192)["standard"]
        worst = judge.standard(bench.asks, found, expected)
        times = found["metrics"]["vllm:num_preemptions"]
        assert times >= 4
        row.steered(f"{judge.words(worst)} after {times:.0f} preemptions; each token counted once")


@pytest.mark.matrix
def test_priority(bench: Bench, expected: dict[str, Any]) -> None:
    """The last are served first, two at a time."""
    with way("priority scheduling") as row:
        found = bench.here(
            {"standard": {"last_first": True}}, scheduling_policy="priority", max_num_seqs=2
        )["standard"]
        row.steered(
            f"{judge.words(judge.standard(bench.asks, found, expected))}, last served first"
        )
