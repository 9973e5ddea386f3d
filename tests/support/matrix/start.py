"""Starting an engine one way: in this process, or in one of its own where the environment differs
or more than one worker is wanted."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine.engine import Ask, Engine, give_back_memory

ROOT = Path(__file__).parents[3]
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "disable_log_stats": False,
    "enable_prefix_caching": False,
    "block_size": 32,
    "max_model_len": 512,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 2**25,
    "seed": 0,
}
"""The plain engine; a way changes some of it."""

_running: list[Engine] = []
"""Engines of this process. They share vLLM's groups of workers, so none is shut down early."""


class EngineFailed(RuntimeError):
    """The engine did not start, or died. The message is the end of its log."""


def here(
    model: Path, library: Path, asks: Sequence[Ask], exams: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """What an engine in this process answers: for each exam (name -> its arguments) its result.

    Raises whatever the start of the engine raises.
    """
    from vllm import LLM

    from tests.support.matrix import exams as known
    from tests.support.matrix import exams_special

    with _environment():
        engine = Engine(LLM(**_all_options(model, library, options)))
    _running.append(engine)
    known.load(engine, asks)
    found = {}
    for name, extra in exams.items():
        exam = getattr(known, name, None) or getattr(exams_special, name)
        found[name] = exam(engine, list(asks), **extra)
    # As if it had come from another process: keys are strings, tuples are lists.
    answers: dict[str, Any] = json.loads(json.dumps(found))
    return answers


def stop() -> None:
    """Let go of this process's engines."""
    _running.clear()
    give_back_memory()


def apart(
    model: Path,
    library: Path,
    asks: Sequence[Ask],
    exams: dict[str, Any],
    environment: dict[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """As `here`, in a process of its own. Raises `EngineFailed` where the engine gets nowhere."""
    order = {
        "options": _all_options(model, library, options),
        "asks": [(one.prompt, one.plan and one.plan.to_json(), one.tokens) for one in asks],
        "exams": exams,
    }
    with tempfile.TemporaryDirectory() as folder:
        ordered, answered = Path(folder, "order.json"), Path(folder, "answers.json")
        ordered.write_text(json.dumps(order))
        ended = subprocess.run(
            [sys.executable, "-m", "tests.support.matrix.child", str(ordered), str(answered)],
            env={**os.environ, **base_environment(), **(environment or {})},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )
        if ended.returncode != 0 or not answered.exists():
            raise EngineFailed(ended.stdout[-20_000:])
        found: dict[str, Any] = json.loads(answered.read_text())
        return found


def _all_options(model: Path, library: Path, options: dict[str, Any]) -> dict[str, Any]:
    steersman = {"library": str(library), "max_segments": 8, **options.get("steersman", {})}
    return {
        "model": str(model),
        "additional_config": {"steersman": steersman},
        **OPTIONS,
        **{name: value for name, value in options.items() if name != "steersman"},
    }


def base_environment() -> dict[str, str]:
    """Of every way that does not say otherwise: the engine in the process that asks, so that what
    is asked together is one batch, the same every time."""
    return {
        "VLLM_PLUGINS": "steersman",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND") or threads(1),
    }


@contextmanager
def _environment() -> Iterator[None]:
    """vLLM writes to the environment, and binds this process to processor cores: undo both."""
    kept, cores = dict(os.environ), os.sched_getaffinity(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in base_environment().items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(kept)
            os.sched_setaffinity(0, cores)


def threads(workers: int) -> str:
    """`VLLM_CPU_OMP_THREADS_BIND` for so many workers: one core each, shared if there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    if workers == 1:
        return f"{cores[0]}-{cores[-1]}"
    return "|".join(str(cores[n % len(cores)]) for n in range(workers))
