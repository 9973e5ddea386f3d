"""Several workers, and ways of sharing work that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.plan.settings import default_home
from steersman.steering.vllm.unsupported import check_ways
from steersman.vectors.demo.model import prepare_model
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.reference.lens import assert_tokens
from tests.reference.reference import ReferenceModel
from tests.steering.vllm.test_unsupported import config
from tests.support.matrix import judge, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.judge import furthest_choice
from tests.support.matrix.questions import questions
from tests.support.matrix.results import way
from tests.support.matrix.start import threads
from tests.support.standin import asynchronous_environment, v2_environment
from tests.support.standin.offloading import CONNECTOR


def tensor_parallel(bench: Bench, workers: int, **options: Any) -> dict[str, Any]:
    directions = directions_for(bench.model)
    found: dict[str, Any] = bench.apart(
        exams={
            "standard": {},
            "lens": {"rows": directions.tolist(), "count": 9},
            "dynamic": {},
            "reads": {},
        },
        environment={"VLLM_CPU_OMP_THREADS_BIND": threads(workers)},
        tensor_parallel_size=workers,
        distributed_executor_backend="mp",
        **options,
    )
    check_lens(bench.model, directions, found["lens"], workers)
    assert furthest_choice(bench, found["dynamic"]) <= 1e-3
    judge.reads(bench, found["reads"], ReferenceModel(bench.model))
    standard: dict[str, Any] = found["standard"]
    return standard


def directions_for(model: Path) -> torch.Tensor:
    """[rows, hidden] for the lens: more rows than it looks at together."""
    hidden = json.loads((model / "config.json").read_text())["hidden_size"]
    return torch.randn(20, hidden, generator=torch.Generator().manual_seed(9))


def check_lens(model: Path, directions: torch.Tensor, found: list[Any], workers: int) -> None:
    """The vocabulary is divided among the workers: what they say together is of all of it."""
    assert len(found) == workers
    answers = [answer for answer in found if answer is not None]
    assert answers
    for answer in answers:
        assert len(answer["tokens"]) == len(directions)
        for direction, tokens in zip(directions, answer["tokens"], strict=True):
            assert_tokens(model, direction, tokens["top"], tokens["bottom"])


TWO_OR_THREE = [
    pytest.param(2, marks=pytest.mark.engine),
    pytest.param(3, marks=pytest.mark.matrix),
]


@pytest.mark.parametrize("workers", TWO_OR_THREE)
def test_tensor_parallel(bench: Bench, expected: dict[str, Any], workers: int) -> None:
    with way(f"tensor parallel {workers}") as row:
        found = tensor_parallel(bench, workers)
        worst = judge.standard(bench.asks, found, expected, workers)
        row.steered(f"{judge.words(worst)}, no row left on any rank")


@pytest.mark.matrix
def test_tensor_parallel_of_a_real_model(tmp_path: Path) -> None:
    """Nine heads on three workers, against one."""
    with way("tensor parallel 3, SmolLM2-135M-Instruct") as row:
        model = prepare_model(default_home(), print)
        ids = tuple(
            AutoTokenizer.from_pretrained(model)("The ferry leaves at seven. " * 9).input_ids
        )
        norms = tiny.stream_norms(model, ids)
        made = [tiny.make_vector(tmp_path, norms, 576, seed) for seed in (1, 2)]
        bench = Bench(model, tmp_path, questions(made[0], made[1], 40_000, first=10, last=20))
        expected = bench.here()["standard"]
        judge.standard(bench.asks, expected, expected)
        found = tensor_parallel(bench, 3)
        worst = judge.standard(bench.asks, found, expected, 3)
        row.steered(f"{judge.words(worst)} of one worker")


STAGES: dict[str, dict[str, str]] = {
    "": {},
    ", model runner V2": v2_environment(),
    ", model runner V2, async scheduling": v2_environment() | asynchronous_environment(),
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", STAGES)
def test_pipeline_parallel(bench: Bench, expected: dict[str, Any], name: str) -> None:
    directions = directions_for(bench.model)
    lens = {"rows": directions.tolist(), "count": 9}
    with way(f"pipeline parallel 2{name}") as row:
        found = bench.apart(
            exams={"standard": {}, "lens": lens, "refused": {}, "is_v2": {}, "scheduling": {}},
            environment={"VLLM_CPU_OMP_THREADS_BIND": threads(2)} | STAGES[name],
            pipeline_parallel_size=2,
            distributed_executor_backend="mp",
            async_scheduling="async" in name,
        )
        assert found["is_v2"] is ("V2" in name)
        assert found["scheduling"]["async"] is ("async" in name)
        check_lens(bench.model, directions, found["lens"], 2)
        for answer in found["refused"].values():
            assert "not support pipeline parallel" in answer
        assert set(found["refused"]) == {"dynamic", "captured", "read"}
        worst = judge.standard(bench.asks, found["standard"], expected, 2)
        row.steered(f"{judge.words(worst)}; captures, reads and dynamic requests are a 400")


@pytest.mark.engine
def test_micro_batches(bench: Bench) -> None:
    with way("micro-batches (`--ubatch-size`, `--enable-dbo`)") as row:
        with pytest.raises(NotInstrumentable, match="cannot steer under micro-batches"):
            bench.here(ubatch_size=2, all2all_backend="deepep_low_latency")
        row.refused("at the start: a step's tokens are cut in two")


@pytest.mark.engine
def test_shared_blocks_under_other_keys(bench: Bench, tmp_path: Path) -> None:
    with way("KV connectors other than offloading") as row:
        transfer = {
            "kv_connector": "ExampleConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)},
        }
        with pytest.raises(NotInstrumentable, match="the KV connector ExampleConnector"):
            bench.here(kv_transfer_config=transfer)
        row.refused("at the start: they may hand blocks of steered requests to others")


def huge_vector(library: Path) -> str:
    """Digest of a vector whose first addition leaves nothing of the stream finite."""
    v = torch.full((tiny.HIDDEN,), 3e38)
    vector = SteeringVector({HookPoint("resid_post", layer): v for layer in range(tiny.LAYERS)})
    Library(library).add(write_vector(vector), "huge")
    return vector.digest


@pytest.mark.engine
def test_offloading(bench: Bench) -> None:
    """vLLM's own connector, of which the copies alone are ours (a GPU makes them else)."""
    with way("KV connector: OffloadingConnector") as row:
        expected = bench.here({"offloaded": {}})["offloaded"]
        found = bench.apart(
            {"offloaded": {}, "overflowing": {"huge": huge_vector(bench.library)}},
            kv_transfer_config=CONNECTOR,
            enable_prefix_caching=True,
        )
        answers = found["offloaded"]
        worst = 0.0
        for name in ("mixed", "opposite", "unsteered", "again"):
            worst = max(worst, judge.same(answers[name], expected[name]))
            if name != "unsteered":
                judge.counts(bench.asks, answers[name])
        judge.idle(answers["before"], answers["after"], 1)
        # Of a steered request, the blocks before its first steered token, and of others all come
        # from the connector.
        hits = 0
        for ask, steered, unsteered in zip(
            bench.asks, answers["again"], answers["unsteered"], strict=True
        ):
            length = len(ask.prompt)
            first = ask.plan.segments(length)[0].start if ask.plan else length
            assert steered["cached"] == first // 32 * 32
            assert unsteered["cached"] >= steered["cached"]
            hits += steered["cached"] > 0
        assert hits >= 5
        for answers in found["overflowing"].values():
            reasons = [answer["reason"] for answer in answers]
            assert reasons == ["error"] * 4 + ["length"] * len(bench.asks)
            judge.same(answers[4:], expected["unsteered"])
        row.steered(
            f"{judge.words(worst)}; {hits} prompts from the connector, up to their first steered "
            "token (its copies by a stand-in)"
        )


NEEDS_A_GPU = [
    ("prefill context parallel", {"prefill_context_parallel_size": 2}),
    ("`--kv-sharing-fast-prefill`", {"kv_sharing_fast_prefill": True}),
]


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "changes"), NEEDS_A_GPU)
def test_ways_that_only_a_gpu_would_start(name: str, changes: dict[str, Any]) -> None:
    """The check alone: vLLM's CPU backend does not get so far."""
    with way(name) as row:
        with pytest.raises(NotInstrumentable, match="cannot steer under"):
            check_ways(config(**changes))
        row.refused("at the start (the check is tested, without an engine)")
