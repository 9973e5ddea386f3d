"""Operations that read the stream, in every way of running that treats a step's rows or graph its
own way: the same answers as from the plain engine, which is held to Hugging Face with hooks."""

import random
from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan import Plan
from steersman.steering.plan.positions import answer_rule
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.matrix.test_compiled import AS_ON_GPUS, LOADED, compiled
from tests.reference.interventions import Intervened
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Ask
from tests.support.engine.operations import READING, Operations
from tests.support.matrix import judge, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way
from tests.support.matrix.start import threads
from tests.support.standin import asynchronous_environment, v2_environment

pytestmark = pytest.mark.matrix

SITES = (*tiny.SITES, "resid_mid")
LENGTHS = (20, 33, 70, 41, 64, 97, 50, 45, 60, 44, 80, 52, 48, 57)
PARALLEL = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
CHUNKS = {"max_num_batched_tokens": 16, "enable_prefix_caching": True}
CRAMPED = {"num_gpu_blocks_override": 9, "max_model_len": 192}
STAGES = {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}
V2, ASYNCHRONOUS = v2_environment(), asynchronous_environment()
WAYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "chunked prefill, 16 tokens a step, prefix caching": (CHUNKS, {}),
    "preemption and resumption": (CRAMPED, {}),
    "async scheduling, model runner V1": ({"async_scheduling": True}, ASYNCHRONOUS),
    "tensor parallel 2": (PARALLEL, {}),
    "pipeline parallel 2": (STAGES, {}),
    "model runner V2": ({}, V2),
    "model runner V2, chunks of 16 tokens, prefix caching": (CHUNKS, V2),
    "model runner V2, preemption and resumption": (CRAMPED, V2),
    "model runner V2, tensor parallel 2": (PARALLEL, V2),
    "async scheduling, model runner V2": ({"async_scheduling": True}, V2 | ASYNCHRONOUS),
}


@pytest.fixture(scope="module")
def operations(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Operations:
    norms = tiny.stream_norms(tiny_model, tuple(range(100)))
    library = Library(tmp_path_factory.mktemp("operations"))
    return Operations(library, dict.fromkeys(SITES, norms), tiny.HIDDEN)


@pytest.fixture(scope="module")
def asked(operations: Operations, tiny_model: Path) -> Bench:
    """Each operation at every site, several at one place, and neighbours that nobody steers."""

    def plan(name: str, site: str, seed: int = 0, *, keep_norm: bool = False) -> Plan:
        at = (3, 40) if name == "replace" else "all"
        terms = tuple(HookPoint(site, layer) for layer in (0, 2))
        vectors = [operations.planned(name, seed, 0.8, terms, at)]
        if keep_norm:
            vectors += [
                operations.planned("project", 1, 1.0, terms, "generation", basis=True),
                operations.planned("add", 1, 0.3, terms, answer_rule(2, None)),
                operations.planned("clamp", 2, 1.0, (HookPoint(site, 1),), (5, 60)),
            ]
        return Plan(tuple(vectors), keep_norm=keep_norm)

    plans: list[Plan | None] = [None, plan("add", "resid_post")]
    for n, name in enumerate(READING):
        plans.append(plan(name, SITES[n % len(SITES)], keep_norm=n % 2 == 1))
        plans.append(None if n % 3 else plan(name, "resid_post", 1))
    chance = random.Random(1)
    asks = [
        Ask(tuple(chance.randrange(tiny.VOCAB) for _ in range(size)), one, 12)
        for one, size in zip(
            plans, (20, 33, 70, 41, 64, 97, 50, 45, 60, 44, 80, 52, 48, 57), strict=True
        )
    ]
    return Bench(tiny_model, operations.library, asks)


@pytest.fixture(scope="module")
def eager(asked: Bench) -> dict[str, Any]:
    """The plain engine's answers: V1, eager, prompts in one piece."""
    found: dict[str, Any] = asked.here()["standard"]
    return found


def test_plain(
    asked: Bench, eager: dict[str, Any], operations: Operations, tiny_reference: ReferenceModel
) -> None:
    with way("operations: prompts in one piece") as row:
        judge.standard(asked.asks, eager, eager)
        worst = 0.0
        for ask, answer in zip(asked.asks, eager["mixed"], strict=True):
            tokens, length = [*ask.prompt, *answer["tokens"]], len(ask.prompt)
            vectors = ask.plan.vectors if ask.plan else ()
            ones = [one for vector in vectors for one in operations.interventions(vector)]
            keep_norm = ask.plan is not None and ask.plan.keep_norm
            wanted = Intervened(tiny_reference).logprobs(tokens, length, ones, keep_norm=keep_norm)
            for position, likeliest in enumerate(answer["logprobs"], start=length - 1):
                for token, logprob in likeliest.items():
                    worst = max(worst, abs(logprob - float(wanted[position, int(token)])))
        assert worst <= judge.CLOSE
        row.steered(f"Hugging Face {judge.words(worst)}")


@pytest.mark.parametrize("name", WAYS)
def test_every_way(asked: Bench, eager: dict[str, Any], name: str) -> None:
    options, environment = WAYS[name]
    workers = 2 if "parallel" in name else 1
    with way(f"operations: {name}") as row:
        found = asked.apart(
            {"standard": {}, "is_v2": {}, "scheduling": {}},
            environment={"VLLM_CPU_OMP_THREADS_BIND": threads(workers)} | environment,
            **options,
        )
        assert found["is_v2"] is ("V2" in name)
        assert found["scheduling"]["async"] is ("async" in name)
        preemptions = found["standard"]["metrics"]["vllm:num_preemptions"]
        assert (preemptions > 0) == ("preemption" in name)
        worst = judge.standard(asked.asks, found["standard"], eager, workers)
        row.steered(f"{judge.words(worst)} of the plain engine's")


def test_compiled_as_on_cpus(asked: Bench, eager: dict[str, Any], tmp_path: Path) -> None:
    with way("operations: torch.compile, as on CPUs") as row:
        found = compiled(asked, tmp_path, "standard")
        assert found.answers, found.log
        worst = judge.standard(asked.asks, found.answers, eager)
        row.steered(f"{judge.words(worst)} of the eager engine's")


def test_compiled_as_on_gpus(asked: Bench, eager: dict[str, Any], tmp_path: Path) -> None:
    """Compiled, and again with the graph from vLLM's cache."""
    with way("operations: torch.compile, as on GPUs") as row:
        first = compiled(asked, tmp_path, "standard", AS_ON_GPUS)
        assert first.answers, first.log
        again = compiled(asked, tmp_path, "standard", AS_ON_GPUS)
        assert LOADED in again.log
        worst = judge.standard(asked.asks, first.answers, eager)
        assert again.answers["mixed"] == first.answers["mixed"]
        row.steered(f"{judge.words(worst)} of the eager engine's, from the cache the same bits")
