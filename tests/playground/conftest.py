"""One demo server, and Chromium beside it, for all tests of the page.

The page is tested as a user meets it: from the server, under its Content-Security-Policy, with the
real model behind it. Each test has a browser context of its own; `tests.support.playground.browser`
says what fails every test.
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from bench.servers import Server, running, steersman
from steersman.steering.plan.settings import default_home
from steersman.vectors.demo.make import fill_library
from steersman.vectors.demo.model import prepare_model
from tests.support.playground.browser import browser as started_browser
from tests.support.playground.browser import context
from tests.support.playground.page import Playground

OPTIONS = shlex.split(
    "--served-model-name smollm2 --max-model-len 4096 --kv-cache-memory-bytes 1073741824"
)


def say(line: str) -> None:
    print(line, file=sys.stderr)


@pytest.fixture(scope="package")
def model() -> Path:
    return prepare_model(default_home(), say)


@pytest.fixture(scope="package")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("playground")
    fill_library(model, folder / "library", say)
    command = steersman(str(model), [*OPTIONS, "--library", str(folder / "library")])
    with running("steersman", command, {"STEERSMAN_HOME": str(folder)}, folder / "log") as started:
        yield started


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    """A page at no address yet."""
    with context(browser, server.url) as made:
        yield made


@pytest.fixture
def play(page: Page) -> Playground:
    """The playground, open, with the demo vectors."""
    return Playground(page).open()
