"""Gates and markers in every way of running: the same decisions, counts and answers as from the
plain engine, which is held to Hugging Face."""

from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.library.library import Library
from tests.matrix.test_compiled import AS_ON_GPUS, LOADED, compiled
from tests.matrix.test_operations import ASYNCHRONOUS, CHUNKS, CRAMPED, PARALLEL, SITES, V2
from tests.matrix.test_speculative import drafted
from tests.reference.reference import ReferenceModel
from tests.support.engine.gates import Making
from tests.support.engine.operations import Operations
from tests.support.matrix import gates, judge, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way
from tests.support.matrix.start import threads

pytestmark = pytest.mark.matrix

ASYNC: dict[str, Any] = {"async_scheduling": True}
WAYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "chunked prefill, 16 tokens a step, prefix caching": (CHUNKS, {}),
    "preemption and resumption": (CRAMPED, {}),
    "model runner V2": ({}, V2),
    "model runner V2, chunks of 16 tokens, prefix caching": (CHUNKS, V2),
    "model runner V2, preemption and resumption": (CRAMPED, V2),
    "async scheduling, model runner V1": (ASYNC, ASYNCHRONOUS),
    "async scheduling, model runner V1, preemption and resumption": (
        ASYNC | CRAMPED,
        ASYNCHRONOUS,
    ),
    "tensor parallel 2": (PARALLEL, {}),
}
NGRAMS = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 1,
}


@pytest.fixture(scope="module")
def making(
    tiny_model: Path, tiny_reference: ReferenceModel, tmp_path_factory: pytest.TempPathFactory
) -> Making:
    norms = tiny.stream_norms(tiny_model, tuple(range(100)))
    library = Library(tmp_path_factory.mktemp("gates"))
    operations = Operations(library, dict.fromkeys(SITES, norms), tiny.HIDDEN)
    return Making(operations, tiny_reference)


@pytest.fixture(scope="module")
def asked(tiny_model: Path, making: Making, tiny_reference: ReferenceModel) -> Bench:
    asks = gates.asks_of(making, tiny_reference)
    return Bench(tiny_model, making.operations.library, asks)


@pytest.fixture(scope="module")
def eager(asked: Bench) -> dict[str, Any]:
    """The plain engine's answers: V1, eager, prompts in one piece."""
    found: dict[str, Any] = asked.here()["standard"]
    return found


def test_plain(
    asked: Bench, eager: dict[str, Any], making: Making, tiny_reference: ReferenceModel
) -> None:
    with way("gates: prompts in one piece") as row:
        gates.standard(asked.asks, eager, eager)
        worst = gates.against_reference(making, tiny_reference, asked.asks, eager["mixed"])
        row.steered(f"Hugging Face {judge.words(worst)}, with the same decisions")


@pytest.mark.parametrize("name", WAYS)
def test_every_way(asked: Bench, eager: dict[str, Any], name: str) -> None:
    options, environment = WAYS[name]
    workers = 2 if "parallel" in name else 1
    with way(f"gates: {name}") as row:
        found = asked.apart(
            {"standard": {}, "is_v2": {}, "scheduling": {}, "decided": {}},
            environment={"VLLM_CPU_OMP_THREADS_BIND": threads(workers)} | environment,
            **options,
        )
        assert found["is_v2"] is ("V2" in name)
        assert found["scheduling"]["async"] is ("async" in name)
        preemptions = found["standard"]["metrics"]["vllm:num_preemptions"]
        assert (preemptions > 0) == ("preemption" in name)
        assert len(found["decided"]) == workers
        assert len({*found["decided"]}) == 1
        worst = gates.standard(asked.asks, found["standard"], eager, workers)
        alike = ", on both ranks the same decisions" if workers > 1 else ""
        row.steered(f"{judge.words(worst)} of the plain engine's{alike}")


def test_compiled_as_on_cpus(asked: Bench, eager: dict[str, Any], tmp_path: Path) -> None:
    with way("gates: torch.compile, as on CPUs") as row:
        found = compiled(asked, tmp_path, "standard")
        assert found.answers, found.log
        worst = gates.standard(asked.asks, found.answers, eager)
        row.steered(f"{judge.words(worst)} of the eager engine's")


def test_compiled_as_on_gpus(asked: Bench, eager: dict[str, Any], tmp_path: Path) -> None:
    """Compiled, and again with the graph from vLLM's cache."""
    with way("gates: torch.compile, as on GPUs") as row:
        first = compiled(asked, tmp_path, "standard", AS_ON_GPUS)
        assert first.answers, first.log
        again = compiled(asked, tmp_path, "standard", AS_ON_GPUS)
        assert LOADED in again.log
        worst = gates.standard(asked.asks, first.answers, eager)
        assert again.answers["mixed"] == first.answers["mixed"]
        row.steered(f"{judge.words(worst)} of the eager engine's, from the cache the same bits")


DRAFTING: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "speculative decoding, n-grams": ("ngram", {}, {}),
    "speculative decoding, draft model": ("draft_model", {}, {}),
}


@pytest.mark.parametrize("name", DRAFTING)
def test_drafts(asked: Bench, eager: dict[str, Any], name: str) -> None:
    """Of the same model, which is not steered: often wrong, and then nothing is left of it."""
    method, options, environment = DRAFTING[name]
    model = {"method": "draft_model", "model": str(asked.model), "num_speculative_tokens": 3}
    with way(f"gates: {name}") as row:
        found = asked.apart(
            {"standard": {}, "is_v2": {}, "scheduling": {}},
            environment=environment,
            speculative_config=NGRAMS if method == "ngram" else model,
            **options,
        )
        assert found["is_v2"] is ("V2" in name)
        assert found["scheduling"]["async"] is ("async" in name)
        drafts, kept = drafted(found["standard"])
        assert 0 < kept < drafts
        worst = gates.standard(asked.asks, found["standard"], eager, drafts=True)
        row.steered(
            f"{judge.words(worst)} of the plain engine's; {drafts} drafts, {kept} kept, the "
            "others neither counted nor remembered"
        )
