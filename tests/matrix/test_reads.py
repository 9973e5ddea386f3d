"""Reads in every way of running: what a request reads is what Hugging Face computes, and reading
changes no answer."""

from typing import Any

import pytest

from tests.matrix.test_operations import ASYNCHRONOUS, CRAMPED, PARALLEL, V2
from tests.reference.reference import ReferenceModel
from tests.support.matrix import judge
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way
from tests.support.matrix.start import threads

pytestmark = pytest.mark.matrix

CHUNKS = {"max_num_batched_tokens": 16}
ASYNC: dict[str, Any] = {"async_scheduling": True}
WAYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "chunked prefill, 16 tokens a step": (CHUNKS, {}),
    "preemption and resumption": (CRAMPED, {}),
    "model runner V2": ({}, V2),
    "model runner V2, chunks of 16 tokens": (CHUNKS, V2),
    "async scheduling, model runner V1": (ASYNC, ASYNCHRONOUS),
    "async scheduling, model runner V2": (ASYNC, V2 | ASYNCHRONOUS),
    "tensor parallel 2": (PARALLEL, {}),
    "model runner V2, tensor parallel 2": (PARALLEL, V2),
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way(bench: Bench, tiny_reference: ReferenceModel, name: str) -> None:
    options, environment = WAYS[name]
    workers = 2 if "parallel" in name else 1
    with way(f"reads: {name}") as row:
        found = bench.apart(
            {"reads": {}, "is_v2": {}, "scheduling": {}},
            environment={"VLLM_CPU_OMP_THREADS_BIND": threads(workers)} | environment,
            **options,
        )
        assert found["is_v2"] is ("V2" in name)
        assert found["scheduling"]["async"] is ("async" in name)
        worst = judge.reads(bench, found["reads"], tiny_reference)
        row.steered(f"within {worst:.0e} of Hugging Face; answers stay the same")
