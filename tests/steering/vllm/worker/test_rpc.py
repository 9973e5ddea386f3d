"""vLLM's sleep on a GPU frees what was allocated while the model was loaded: not our tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.steering.vllm.worker import rpc


class Worker:
    """As `v1/worker/gpu_worker.py: Worker.load_model`: the pool that sleep frees is open inside."""

    def __init__(self) -> None:
        self.pool_is_open = False

    @contextmanager
    def _pool(self) -> Iterator[None]:
        self.pool_is_open = True
        yield
        self.pool_is_open = False

    def load_model(self) -> None:
        with self._pool():
            pass


def test_tables_are_allocated_outside_the_pool_that_sleep_frees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []

    def steering(worker: Any, _config: Any) -> None:
        seen.append(worker.pool_is_open)

    monkeypatch.setattr(rpc, "WorkerSteering", steering)
    config = SimpleNamespace(model_config=SimpleNamespace(runner_type="generate"))
    wrapper = SimpleNamespace(worker=Worker(), vllm_config=config)
    rpc.load_model(wrapper)
    assert seen == [False]


def test_vllm_opens_the_pool_inside_load_model_and_nowhere_around_it() -> None:
    """Where the pool is opened, in vLLM's own source: what the stand-in above copies."""
    import inspect

    from vllm.v1.worker import worker_base
    from vllm.v1.worker.gpu_worker import Worker as GPUWorker

    assert '_maybe_get_memory_pool_context(tag="weights")' in inspect.getsource(
        GPUWorker.load_model
    )
    assert "memory_pool" not in inspect.getsource(worker_base)
