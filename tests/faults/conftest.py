"""Faults: everything here kills, fills or spoils something, and needs a server of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.servers import demo_model
from tests.http.conftest import make_vector
from tests.support.faults.deployment import Deployment
from tests.support.http.client import Client

__all__ = ["make_vector"]
ORDER = (
    "test_kill_uploads",
    "test_clock",
    "test_full_disk",
    "test_hung_disk",
    "test_hung_reads",
    "test_kill_server",
    "test_kill_engine",
    "test_damage",
    "test_two_writers",
    "test_slow_clients",
)
"""Those with servers of their own first, so that one server runs at a time; then those that leave
the shared one as the next can use it."""
HERE = Path(__file__).parent
Said = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("faults")
    # Stable, and others' tests stay where they are.
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    ours.sort(key=lambda item: ORDER.index(item.path.stem))
    places = [n for n, item in enumerate(items) if item.path.is_relative_to(HERE)]
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest.fixture(scope="package")
def model() -> Path:
    return Path(demo_model())


@pytest.fixture(scope="package")
def deployment(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests whose library is on an ordinary disk; it may be down."""
    folder = tmp_path_factory.mktemp("deployment")
    made = Deployment(model, folder, folder / "library")
    yield made
    made.stop()


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    """To the deployment, which is up."""
    deployment.up()
    with deployment.client() as client:
        yield client


@pytest.fixture
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Said:
    """Print what was read or measured, for docs/faults.md, whether or not pytest captures."""

    def print_now(line: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {line}", flush=True)

    return print_now
