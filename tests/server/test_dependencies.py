"""Routes get the caller's library, and no way to the whole one."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

import steersman.server as room
from steersman.server import dependencies
from steersman.server.auth.caller import Caller, enter
from steersman.server.auth.library_view import LibraryView
from tests.support.server.extraction import Engine, make_context
from tests.support.server.keys import permissions
from tests.support.server.make import steersman

SERVER = Path(str(room.__file__)).parent
ROUTES = ("chat/routes.py", "library/routes.py", "library/inspect.py", "extraction/api.py")


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_reaches_for_the_whole_library(path: str) -> None:
    tree = ast.parse((SERVER / path).read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not attributes & {"steersman", "whole_library", "all_doses"}
    assert not names & {"Library", "Steersman"}


def _library(view: LibraryView) -> list[str]:
    return [entry.name for entry in view.list()]


@pytest.mark.parametrize(
    ("dependency", "library"),
    [
        (dependencies.library_view, _library),
        (dependencies.preset_view, lambda presets: _library(presets.library)),
        (dependencies.extraction_context, lambda context: _library(context.library)),
    ],
)
def test_each_library_is_the_callers(
    dependency: Callable[..., Any], library: Callable[[Any], list[str]], tmp_path: Path
) -> None:
    app = FastAPI()

    @app.get("/")
    async def names(found: Annotated[Any, Depends(dependency)]) -> list[str]:
        return library(found)

    app.state.steersman = steersman(tmp_path / "library")
    app.state.steersman.extraction = make_context(tmp_path / "other", Engine())

    class Called:
        """In the place of `Authenticate`."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            enter(Caller(permissions(vectors=("s*",))))
            await self.inner(scope, receive, send)

    app.add_middleware(Called)
    assert TestClient(app).get("/").json() == ["single", "steps"]
