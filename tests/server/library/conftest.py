"""The REST of vectors on a bare FastAPI app: its library, its events and a client of it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.library.routes import build_router
from steersman.server.middleware.body_limit import BodyLimit
from steersman.vectors.library.library import Library
from tests.support.server.make import presets_of
from tests.support.server.vectors_rest import LIMIT
from tests.support.vectors.make import HIDDEN


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path, hidden_size=HIDDEN, num_layers=8)


@pytest.fixture
def events() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def client(library: Library, events: list[tuple[str, str]]) -> Iterator[TestClient]:
    app = FastAPI()
    error_response.install(app)
    app.include_router(build_router())
    app.add_middleware(BodyLimit, max_upload_bytes=2 * LIMIT)
    app.state.steersman = SimpleNamespace(
        library_for=lambda _: library,
        presets_for=lambda _: presets_of(library),
        max_upload_bytes=LIMIT,
        on_change=lambda event, name, _: events.append((event, name)),
        capabilities_for=lambda _: {
            "version": "1", "model": "m", "num_layers": 8, "hidden_size": HIDDEN,
            "sites": ["resid_post"], "median_norms": None, "limits": {"max_vectors": 16},
        },
    )  # fmt: skip
    # A server error must come as an answer, as it would over HTTP.
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
