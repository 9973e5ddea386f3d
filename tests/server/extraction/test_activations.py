"""Activations are off unless the operator allows them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.activations import routes
from steersman.steering.plan import Settings


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        ({}, 403, "activations_off"),
        ({"allow_activations": True}, 400, "too_many_rows"),
    ],
)
def test_they_are_off_unless_allowed(
    tmp_path: Path, settings: dict[str, Any], status: int, code: str
) -> None:
    app = FastAPI()
    error_response.install(app)
    app.include_router(routes.build_router())
    app.state.steersman = SimpleNamespace(
        settings=Settings(library=str(tmp_path), **settings),
        extraction_for=lambda _: None,
        max_extract_rows_for=lambda _: 3,
    )
    body = {"texts": ["Hello"] * 4, "hook_points": ["resid_post.1"]}
    answer = TestClient(app).post("/v1/steering/activations", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
