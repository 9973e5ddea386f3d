"""Our routes in the place of vLLM's."""

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from server.plugin import _make_way


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
