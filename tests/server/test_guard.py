import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from server.guard import RefuseIgnoredSteering


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"length": len(await request.body())})


@pytest.fixture
def client() -> TestClient:
    paths = ["/v1/messages", "/v1/chat/completions", "/v1/embeddings"]
    app = Starlette(routes=[Route(path, echo, methods=["GET", "POST"]) for path in paths])
    app.add_middleware(RefuseIgnoredSteering)
    return TestClient(app)


def test_a_route_that_would_ignore_the_field_refuses_it(client: TestClient) -> None:
    answer = client.post("/v1/messages", json={"steering": {"vectors": {"a": 1}}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "steering"


def test_json_escapes_hide_nothing(client: TestClient) -> None:
    body = b'{"steer\\u0069ng": {"vectors": {"a": 1}}}'
    answer = client.post("/v1/messages", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert client.post("/v1/messages", json={"text": "\u00e9"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"steering": None},
        {"input": 'a text about "steering"'},
        {"messages": [{"steering": 1}]},
        {"input": "x" * 3_000_000},
    ],
)
def test_all_else_passes_unchanged(client: TestClient, body: dict[str, object]) -> None:
    sent = client.build_request("POST", "/v1/messages", json=body)
    answer = client.send(sent)
    assert (answer.status_code, answer.json()["length"]) == (200, len(sent.content))


def test_the_routes_that_steer_and_other_kinds_of_body(client: TestClient) -> None:
    assert client.post("/v1/chat/completions", json={"steering": {}}).status_code == 200
    assert client.post("/v1/messages", content=b'{"steering": 1}').status_code == 200
    assert client.get("/v1/messages").status_code == 200
    broken = client.post(
        "/v1/messages", content=b'{"steering"', headers={"Content-Type": "application/json"}
    )
    assert broken.status_code == 200
