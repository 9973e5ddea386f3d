"""The command run in this process, and a server without an engine: our routes over a real library,
behind vLLM's own check of keys."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from bench.servers import free_port
from steersman.client.cli import main
from steersman.server import error_response
from steersman.server.extraction.api import build_router as extract_router
from steersman.server.extraction.jobs import Jobs
from steersman.server.library.routes import build_router as vectors_router
from steersman.server.presets.routes import build_router as presets_router
from steersman.vectors.library.library import Library
from tests.support.server.make import presets_of
from tests.support.vectors.make import vector_file

KEY = "sesame"
HIDDEN = 8
"""As the importers' fixtures have it."""


CAPABILITIES = {
    "version": "0",
    "model": "tiny",
    "num_layers": 8,
    "hidden_size": HIDDEN,
    "sites": ["resid_post"],
    "median_norms": {f"resid_post.{layer}": 10.0 for layer in range(8)},
    "limits": {},
}


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout; fails if anything but one JSON value is there."""
        return json.loads(self.out)


@pytest.fixture
def steersman(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `steersman` with these arguments."""

    def run(*args: str) -> Done:
        capsys.readouterr()
        status = main(list(args))
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the vectors `glad` and `calm`, without an engine, with a key."""
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    folder: Path = tmp_path_factory.mktemp("shelf")
    library = Library(folder, hidden_size=HIDDEN, num_layers=8)
    for name in ("glad", "calm"):
        library.add(
            vector_file(hidden=HIDDEN, description=f"[bold] {name}", safe_range=(-2, 2)), name
        )
    app = FastAPI()
    error_response.install(app)
    app.include_router(extract_router())
    app.include_router(presets_router())
    app.include_router(vectors_router())
    app.add_middleware(AuthenticationMiddleware, tokens=[KEY])
    app.state.steersman = SimpleNamespace(
        library_for=lambda _: library,
        presets_for=lambda _: presets_of(library),
        max_upload_bytes=200_000,
        on_change=lambda *_: None,
        jobs=Jobs(folder / "jobs", 1),
        capabilities_for=lambda _: CAPABILITIES,
    )
    with serving(app) as url:
        yield url


class serving:
    """`app` on a free port, in a thread."""

    def __init__(self, app: FastAPI) -> None:
        self._port = free_port()
        config = uvicorn.Config(app, host="127.0.0.1", port=self._port, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
        return f"http://127.0.0.1:{self._port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def keyed(
    shelf: str, steersman: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Run `steersman` against `shelf`, with its key, both out of the environment."""
    monkeypatch.setenv("STEERSMAN_SERVER", shelf)
    monkeypatch.setenv("STEERSMAN_API_KEY", KEY)
    return steersman
