"""Kinds of models: steered ones equal Hugging Face at every layer and site, others are refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.families import FAMILIES
from tests.support.models.family import Family
from tests.support.models.table import FILE, page, record

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4
MOVED = 0.05
"""Steering that moves log-probabilities by less would prove nothing."""

Find = Callable[[Family], dict[str, Any]]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Find]:
    """Gives what `tests.support.models.run` finds of a family. It starts once; imports are long."""
    folder = tmp_path_factory.mktemp("models")
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.models.run", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={"VLLM_CPU_OMP_THREADS_BIND": str(min(os.sched_getaffinity(0))), **os.environ},
        ) as runs,
    ):
        assert runs.stdin is not None
        assert runs.stdout is not None
        lines = runs.stdout

        def found(family: Family) -> dict[str, Any]:
            print(family.name, file=runs.stdin, flush=True)
            ended = any(line == f"DONE {family.name}\n" for line in lines)
            file = folder / family.name / "found.json"
            if not ended or not file.exists():
                pytest.fail(f"no result; the log ends:\n{(folder / 'log').read_text()[-3000:]}")
            result: dict[str, Any] = json.loads(file.read_text())
            return result

        yield found
        runs.stdin.close()


def cases() -> list[Any]:
    return [
        pytest.param(
            family,
            id=family.name,
            marks=[
                pytest.mark.engine if family.quick else pytest.mark.matrix,
                pytest.mark.xfail(
                    bool(family.unproven),
                    reason=family.unproven,
                    raises=AssertionError,
                    strict=True,
                ),
            ],
        )
        for family in FAMILIES
    ]


@pytest.mark.parametrize("family", cases())
def test_a_family_of_models(family: Family, find: Find) -> None:
    found = find(family)
    check(family, found)
    record(family, found)


def check(family: Family, found: dict[str, Any]) -> None:
    """Whether what was found is what is promised."""
    if family.vllm_must_fail:
        assert found.get("stage") == "plain", found
        assert "error" in found, "this vLLM can run it: so can Steersman, perhaps"
        assert family.vllm_must_fail in found["error"]
        return
    if family.refused:
        assert found.get("stage") == "steer", found
        assert found["error"].startswith("NotInstrumentable: ")
        assert family.refused in found["error"]
        return
    assert "error" not in found, found["error"]
    assert tuple(found["sites"]) == family.compared
    layers = range(len(found["layers"]))
    assert found["layers"] == list(layers)
    assert found["unsteered"] <= TOLERANCE
    assert found["steered"].keys() == {f"{s}.{layer}" for s in family.compared for layer in layers}
    off = {name: x["off"] for name, x in found["steered"].items() if x["off"] > TOLERANCE}
    weak = {name: x["moved"] for name, x in found["steered"].items() if x["moved"] < MOVED}
    assert (off, weak) == ({}, {})


def test_the_page_of_models_says_what_was_found() -> None:
    written = FILE.read_text(encoding="utf-8")
    assert written == page(), "run `python -m tests.support.models.table`"
