"""For all tests."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Timings are never asserted: the machines are shared and noisy.
settings.register_profile("steersman", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steersman")

ENGINES = tuple(Path(__file__).parent / folder for folder in ("engine", "http"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in ENGINES):
            item.add_marker("engine")
