"""Ways of asking for more than one greedy answer."""

from typing import Any

import pytest
from vllm.sampling_params import BeamSearchParams

from tests.reference.reference import ReferenceModel
from tests.support.matrix import judge
from tests.support.matrix.bench import Bench
from tests.support.matrix.questions import NEW_TOKENS
from tests.support.matrix.results import way


@pytest.mark.engine
def test_prompt_logprobs(
    bench: Bench, plain: dict[str, Any], expected: dict[str, Any], tiny_reference: ReferenceModel
) -> None:
    with way("prompt log-probabilities") as row:
        found = plain["prompt_logprobs"]
        judge.same(found["mixed"], expected["mixed"])
        judge.neighbours(bench.asks, found["mixed"], found["unsteered"], "prompt_logprobs")
        worst = judge.reference(bench, tiny_reference, found["mixed"], prompts=True)
        row.steered(f"Hugging Face {judge.words(worst)}")


@pytest.mark.engine
def test_several_answers(bench: Bench, plain: dict[str, Any]) -> None:
    with way("`n` > 1") as row:
        together, single = plain["several"]["together"], plain["several"]["single"]
        for n, (ask, answer) in enumerate(zip(bench.asks, together, strict=True)):
            assert answer["all_tokens"] == [s[n]["all_tokens"][0] for s in single]
            one = [s[n]["counted"][0] for s in single] if ask.plan else []
            assert sorted(answer["counted"]) == sorted(one)
            assert all(len(tokens) == NEW_TOKENS for tokens in answer["all_tokens"])
        judge.idle(plain["standard"]["before"], plain["several"]["after"], 1)
        assert any(len({*map(tuple, answer["all_tokens"])}) == 3 for answer in together)
        row.steered("three answers, each as asked for alone with its seed")


@pytest.mark.engine
def test_beam_search_cannot_carry_a_plan(bench: Bench) -> None:
    """Beams are requests of their own, which vLLM makes from these parameters. Over HTTP,
    tests/http/test_bad_requests.py sees the 400."""
    with way("beam search") as row:
        assert "extra_args" not in BeamSearchParams.__struct_fields__
        row.refused("400: vLLM's beams are new requests, and carry no plan; unsteered ones work")


@pytest.mark.matrix
def test_structured_output(bench: Bench, plain: dict[str, Any]) -> None:
    """A grammar of four letters allows the same tokens as a list of them does."""
    with way("structured output") as row:
        found = bench.here({"structured": {}}, logprobs_mode="processed_logprobs")["structured"]
        listed, grammar = found["listed"], found["grammar"]
        judge.neighbours(bench.asks, grammar, found["unsteered"])
        judge.steering_shows(bench.asks, grammar, found["unsteered"])
        judge.counts(bench.asks, grammar)
        worst = judge.same(grammar, listed)
        ids = set(found["ids"])
        assert all(len(a["tokens"]) == 12 and set(a["tokens"]) <= ids for a in grammar)
        row.steered(f"xgrammar: {judge.words(worst)} of the same tokens allowed by a list")


@pytest.mark.matrix
def test_prompt_embeddings(bench: Bench, expected: dict[str, Any]) -> None:
    with way("prompt embeddings") as row:
        options = {"enable_prompt_embeds": True, "enable_prefix_caching": True}
        found = bench.here({"standard": {}, "embeddings": {}}, **options)
        judge.standard(bench.asks, found["standard"], expected)
        answers = found["embeddings"]
        worst = 0.0
        for name in ("first", "again"):
            worst = max(worst, judge.same(answers[name], answers["tokens"]))
            judge.counts(bench.asks, answers[name])
        judge.steering_shows(bench.asks, answers["first"], answers["unsteered"])
        # Blocks of the same embeddings, shaped by the same steering, are found in the cache.
        assert sum(one["cached"] for one in answers["again"]) > 0
        assert "does not support prompts of embeddings" in answers["dynamic"]
        seen = f"{judge.words(worst)} as the same prompts of tokens, from the prefix cache too"
        row.steered(f"{seen}; a dynamic one is a 400")


@pytest.mark.matrix
def test_sleep(bench: Bench, expected: dict[str, Any]) -> None:
    """On a CPU vLLM's sleep lets go of nothing but the prefix cache; `--enable-sleep-mode` itself
    is an error there. tests/steering/vllm/worker/test_rpc.py sees that a GPU's keeps our tables."""
    with way("sleep and wake-up") as row:
        found = bench.here({"asleep": {}}, enable_prefix_caching=True)["asleep"]
        for level in ("1", "2"):
            judge.same(found[level], expected["mixed"])
        judge.idle(found["before"], found["after"], 1)
        row.steered(
            "levels 1 and 2 on a CPU; a GPU's sleep was not tried (it does not free our tables)"
        )
