"""The wheel, the sdist and the editable wheel, built once."""

from pathlib import Path

import pytest

from tests.support.install import Environment, build, copy_of_sources, install


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_sources(tmp_path_factory.mktemp("build") / "sources")


@pytest.fixture(scope="session")
def wheel(sources: Path) -> Path:
    return build(sources, "build_wheel", sources.parent / "wheel")


@pytest.fixture(scope="session")
def sdist(sources: Path) -> Path:
    return build(sources, "build_sdist", sources.parent / "sdist")


@pytest.fixture(scope="session")
def editable(sources: Path) -> Path:
    return build(sources, "build_editable", sources.parent / "editable")


@pytest.fixture(scope="session", params=["wheel", "editable"])
def environment(request: pytest.FixtureRequest, sources: Path) -> Environment:
    """An environment in which the package is installed from its wheel, or editable."""
    kind: str = request.param
    return install(request.getfixturevalue(kind), sources.parent / f"{kind}-venv")
