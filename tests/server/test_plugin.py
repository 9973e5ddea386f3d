"""What the plugin puts on vLLM's app."""

from argparse import Namespace

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
