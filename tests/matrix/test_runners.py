"""vLLM's V2 model runner, with Triton's interpreter for its kernels, and asynchronous scheduling on
both runners, against the V1 runner and synchronous scheduling.

What holds on V2 one by one is in `tests/engine/test_v2.py`.
"""

from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan.settings import default_home
from steersman.vectors.demo.model import prepare_model
from tests.reference.reference import ReferenceModel
from tests.support.matrix import judge, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.judge import furthest_choice
from tests.support.matrix.questions import questions
from tests.support.matrix.results import way
from tests.support.matrix.start import threads
from tests.support.standin import asynchronous_environment, v2_environment

WAYS: dict[str, dict[str, Any]] = {
    "": {},
    ", chunks of 16 tokens, prefix caching": {
        "max_num_batched_tokens": 16,
        "enable_prefix_caching": True,
    },
    ", preemption and resumption": {"num_gpu_blocks_override": 9, "max_model_len": 192},
    ", tensor parallel 2": {
        "tensor_parallel_size": 2,
        "distributed_executor_backend": "mp",
    },
}


def on_v2(
    bench: Bench, workers: int = 1, *, dynamic: bool = False, **options: Any
) -> dict[str, Any]:
    """The standard exam, on the V2 runner for sure; with `dynamic`, that of composition too."""
    found = bench.apart(
        {"standard": {}, "is_v2": {}, **({"dynamic": {}} if dynamic else {})},
        environment=v2_environment() | {"VLLM_CPU_OMP_THREADS_BIND": threads(workers)},
        **options,
    )
    assert found["is_v2"] is True
    if dynamic:
        assert furthest_choice(bench, found["dynamic"]) <= 1e-3
    standard: dict[str, Any] = found["standard"]
    return standard


@pytest.mark.matrix
@pytest.mark.parametrize("name", WAYS)
def test_answers_of_the_v2_runner(bench: Bench, expected: dict[str, Any], name: str) -> None:
    options = WAYS[name]
    workers = options.get("tensor_parallel_size", 1)
    with way(f"model runner V2{name}") as row:
        # Three vectors on 150 tokens are five streams, which nine blocks do not hold.
        found = on_v2(bench, workers, dynamic="preemption" not in name, **options)
        assert (found["metrics"]["vllm:num_preemptions"] > 0) == ("preemption" in name)
        worst = judge.standard(bench.asks, found, expected, workers)
        row.steered(f"within {worst:.0e} of V1")


@pytest.mark.matrix
def test_the_v2_runner_on_a_real_model(tmp_path: Path) -> None:
    model = prepare_model(default_home(), print)
    norms = tiny.stream_norms(model, tuple(range(100, 200)))
    made = [tiny.make_vector(tmp_path, norms, 576, seed) for seed in (1, 2)]
    bench = Bench(model, tmp_path, questions(made[0], made[1], 40_000, first=10, last=20))
    with way("model runner V2, SmolLM2-135M-Instruct") as row:
        expected = bench.here()["standard"]
        worst = judge.standard(bench.asks, on_v2(bench), expected)
        row.steered(f"within {worst:.0e} of V1")


@pytest.mark.engine
def test_captures_of_v2_pass_the_graphs_by(bench: Bench, tiny_reference: ReferenceModel) -> None:
    """The model is compiled, with a backend that leaves it as it is: Inductor takes the stand-in
    for a Triton that compiles. In a graph no Python runs, so nobody listens there."""
    with way("capture (extraction), model runner V2 under torch.compile") as row:
        found = bench.apart(
            {"captured": {}, "reads": {}, "is_v2": {}},
            environment=v2_environment() | {"TORCHDYNAMO_DISABLE": "0"},
            enforce_eager=False,
            compilation_config={"mode": 3, "backend": "eager"},
        )
        assert found["is_v2"] is True
        worst = judge.captures(found["captured"], tiny_reference)
        worst = max(worst, judge.reads(bench, found["reads"], tiny_reference))
        row.steered(f"the stream within {worst:.0e} of Hugging Face's; answers stay the same")


RUNNERS = {"V1": {}, "V2": v2_environment()}


def asynchronously(bench: Bench, runner: str, exams: list[str], **options: Any) -> dict[str, Any]:
    """What an engine answers that schedules asynchronously for sure."""
    found = bench.apart(
        {name: {} for name in (*exams, "is_v2", "scheduling")},
        environment=RUNNERS[runner] | asynchronous_environment(),
        async_scheduling=True,
        **options,
    )
    assert found["scheduling"]["async"] is True
    assert found["is_v2"] is (runner == "V2")
    return found


@pytest.mark.matrix
@pytest.mark.parametrize("name", [name for name in WAYS if "parallel" not in name])
@pytest.mark.parametrize("runner", RUNNERS)
def test_asynchronous_scheduling(
    bench: Bench,
    expected: dict[str, Any],
    tiny_reference: ReferenceModel,
    runner: str,
    name: str,
) -> None:
    with way(f"async scheduling, model runner {runner}{name}") as row:
        exams = ["standard"] if name else ["standard", "captured", "reads", "dynamic"]
        found = asynchronously(bench, runner, exams, **WAYS[name])
        worst = judge.standard(bench.asks, found["standard"], expected)
        preemptions = found["standard"]["metrics"]["vllm:num_preemptions"]
        assert (preemptions > 0) == ("preemption" in name)
        more = ""
        if not name:
            judge.captures(found["captured"], tiny_reference)
            judge.reads(bench, found["reads"], tiny_reference)
            assert furthest_choice(bench, found["dynamic"]) <= 1e-3
            more = "; captures, reads and dynamic composition too"
        row.steered(f"{judge.words(worst)}, as scheduled synchronously on V1{more}")
