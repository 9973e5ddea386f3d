"""The tiny model, its vectors, and the plain engine's answers, made once a session."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reference.reference import ReferenceModel
from tests.support.matrix import start, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.questions import questions


@pytest.fixture(scope="package")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="package")
def bench(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    library = tmp_path_factory.mktemp("library")
    norms = tiny.stream_norms(tiny_model, tuple(range(100)))
    digests = [tiny.make_vector(library, norms, tiny.HIDDEN, seed) for seed in (1, 2)]
    return Bench(tiny_model, library, questions(digests[0], digests[1], tiny.VOCAB))


@pytest.fixture(scope="package")
def tiny_reference(bench: Bench) -> ReferenceModel:
    return ReferenceModel(bench.model)


@pytest.fixture(scope="package")
def plain(bench: Bench) -> Iterator[dict[str, Any]]:
    """What the plain engine answers: one worker, no prefix cache, prompts in one piece."""
    yield bench.here({"standard": {}, "alone": {}, "prompt_logprobs": {}, "several": {}})
    start.stop()


@pytest.fixture(scope="package")
def expected(plain: dict[str, Any]) -> dict[str, Any]:
    """The plain engine's answers to the standard questions."""
    found: dict[str, Any] = plain["standard"]
    return found
