"""Our routes in the place of vLLM's."""

from argparse import Namespace

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from steersman.server.plugin import SteersmanEndpoints, _make_way


def test_of_two_routes_of_one_path_ours_answers() -> None:
    theirs, ours = APIRouter(), APIRouter()
    for router, name in ((theirs, "vLLM"), (ours, "Steersman")):
        router.add_api_route("/v1/completions", lambda name=name: name, methods=["POST"])
    theirs.add_api_route("/v1/completions", lambda: "asked", methods=["GET"])
    theirs.add_api_route("/v1/models", lambda: "models", methods=["GET"])
    app = FastAPI()
    app.include_router(theirs)
    _make_way(app, ours)
    app.include_router(ours)

    client = TestClient(app)
    assert client.post("/v1/completions").json() == "Steersman"
    assert client.get("/v1/completions").json() == "asked"
    assert client.get("/v1/models").json() == "models"
    posts = [r for r in app.routes if r.path == "/v1/completions" and "POST" in r.methods]  # type: ignore[attr-defined]
    assert len(posts) == 1


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
