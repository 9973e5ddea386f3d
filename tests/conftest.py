"""For all tests."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# So that a failed comparison says what it compared. Before anything imports it.
pytest.register_assert_rewrite("tests.support.matrix.judge")

# Timings are never asserted: the machines are shared and noisy.
settings.register_profile("steersman", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steersman")

ENGINES = tuple(Path(__file__).parent / folder for folder in ("engine", "http", "playground"))

# Of tests that run side by side (`pytest -n 2`) each process keeps to one core, as do the engines
# and servers that it starts: where two share their cores, both wait for their slower thread.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in ENGINES):
            item.add_marker("engine")


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """`--dist loadscope`: one process takes all tests of a folder, which share engines."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("/")[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder | None:
    return ByFolder(config, log) if config.getvalue("dist") == "loadscope" else None
