"""What the plugin puts on vLLM's app."""

from argparse import Namespace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from steersman.server.plugin import SteersmanEndpoints


def test_a_model_that_does_not_generate_refuses_what_means_steering() -> None:
    app = FastAPI()
    app.state.args = Namespace(additional_config={})
    app.add_api_route("/v1/embeddings", lambda: {"data": []}, methods=["POST"])
    SteersmanEndpoints().attach_router(app)
    client = TestClient(app)
    assert client.post("/v1/embeddings", json={"input": "a"}).json() == {"data": []}
    for more in ({"steering": {"vectors": {"a": 1}}}, {"steer": 1}):
        answer = client.post("/v1/embeddings", json={"input": "a", **more})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in more
    answer = client.post("/v1/embeddings", json={"input": "a"}, headers={"X-Steering": "a=1"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Steering")


@pytest.mark.parametrize("switch", [True, False])
def test_the_playground_can_be_switched_off(tmp_path: Path, switch: bool) -> None:
    app = FastAPI()
    ours = {"library": str(tmp_path), "playground": switch}
    app.state.args = Namespace(additional_config={"steersman": ours})
    app.add_api_route("/v1/chat/completions", lambda: {"data": []}, methods=["POST"])
    SteersmanEndpoints().attach_router(app)
    client = TestClient(app)
    for path in ("/playground", "/playground/app.js"):
        assert client.get(path).status_code == (200 if switch else 404)
