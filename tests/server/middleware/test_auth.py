"""The gate on a small app with a route of each need, asked by a key of each scope."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from starlette.types import Message, Scope
from starlette.websockets import WebSocketDisconnect

from steersman.server import error_response
from steersman.server.auth import audit
from steersman.server.auth import keyfile as file
from steersman.server.auth.caller import caller
from steersman.server.auth.keyfile import Keys
from steersman.server.auth.permissions import INFER
from steersman.server.middleware.auth import Authenticate
from tests.support.server.keys import ONE_EACH, bearer, entry, keys, one_each

CALLERS = [None, "nobody", *ONE_EACH]
ROUTES = {
    "public": ("GET", "/health"),
    "any": ("GET", "/v1/models"),
    "infer": ("POST", "/v1/completions"),
    "vectors:read": ("GET", "/v1/steering/vectors"),
    "vectors:write": ("POST", "/v1/steering/vectors"),
    "admin": ("POST", "/sleep"),
    "off": ("POST", "/collective_rpc"),
    "unlisted": ("GET", "/new/in/vllm"),
    "nowhere": ("GET", "/nothing"),
    "wrong method": ("DELETE", "/v1/completions"),
}
GETS_THROUGH: dict[str, set[str | None]] = {
    "public": {None, "nobody", *ONE_EACH},
    "any": {*ONE_EACH},
    "infer": {"infer", "admin"},
    "vectors:read": {"reader", "admin"},
    "vectors:write": {"writer", "admin"},
    "admin": {"admin"},
}


def app(gate_keys: Keys | None) -> FastAPI:
    inner = FastAPI()
    error_response.install(inner)

    def who() -> dict[str, str]:
        return {"caller": caller().permissions.name}

    for method, path in ROUTES.values():
        if path != "/nothing" and method != "DELETE":
            inner.add_api_route(path, who, methods=[method])

    @inner.post("/wake_up")
    async def fails(request: Request) -> None:
        raise RuntimeError("half done")

    @inner.get("/is_paused")
    async def asked() -> dict[str, str]:
        return who()

    @inner.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(caller().permissions.name)
        await socket.close()

    @inner.websocket("/v1/secret")
    async def unlisted(socket: WebSocket) -> None:
        await socket.accept()

    inner.add_middleware(Authenticate, keys=gate_keys)
    return inner


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    found = Keys(one_each(tmp_path / "keys.yaml"))
    return TestClient(app(found), raise_server_exceptions=False)


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    path = tmp_path / "audit.jsonl"
    audit.write_to(str(path))
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    audit.write_to(None)


def refused(answer: Any) -> tuple[int, str, str]:
    """Status, type and code of an answer that must have OpenAI's shape."""
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return answer.status_code, body["error"]["type"], body["error"]["code"]


@pytest.mark.parametrize("need", ROUTES)
@pytest.mark.parametrize("who", CALLERS)
def test_the_whole_matrix(client: TestClient, need: str, who: str | None) -> None:
    method, path = ROUTES[need]
    answer = client.request(method, path, headers=bearer(who))
    if who in GETS_THROUGH.get(need, ()):
        assert answer.status_code == 200
        assert answer.json() == {"caller": "" if need == "public" else who}
    elif need == "off":
        assert refused(answer) == (403, "permission_error", "route_off")
    elif who not in ONE_EACH:
        assert refused(answer) == (401, "authentication_error", "invalid_api_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    elif need == "unlisted":
        assert refused(answer) == (403, "permission_error", "route_off")
    elif need == "nowhere":
        assert answer.status_code == 404
    elif need == "wrong method":
        assert answer.status_code == 405
    else:
        assert refused(answer) == (403, "permission_error", "scope_missing")
        assert need in answer.json()["error"]["message"]


@pytest.mark.parametrize("need", ROUTES)
def test_without_a_keys_file(need: str) -> None:
    method, path = ROUTES[need]
    answer = TestClient(app(None)).request(method, path)
    expected = {"off": 403, "nowhere": 404, "wrong method": 405}
    assert answer.status_code == expected.get(need, 200)


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": "infer"}, {"Authorization": "Basic infer"}, {"Authorization": "Bearer"},
        {"Authorization": "Bearer "}, {"Authorization": ""}, {"Authorization": "Bearer infer x"},
        {"Authorization": "Bearer Infer"}, {"Authorization": "Bearer infe"},
        {"Authorization": "Bearer inferr"}, {"Authorization": "Bearer inf\xe9r"},
        {"Authorization": "Bearer " + "x" * 60_000}, {"X-Api-Key": ""}, {"X-Api-Key": "nobody"},
        {"Authorization": "Bearer nobody", "X-Api-Key": "infer"},
        {"Authorization": "Bearer ", "X-Api-Key": "infer"},
    ],
)  # fmt: skip
def test_what_is_no_key(client: TestClient, header: dict[str, str]) -> None:
    raw = {name.encode(): value.encode("latin-1") for name, value in header.items()}
    assert client.post("/v1/completions", headers=raw).status_code == 401


@pytest.mark.parametrize(
    "header", [{"authorization": "bearer infer"}, {"Authorization": "Bearer   infer"},
               {"X-Api-Key": "infer"}],
)  # fmt: skip
def test_ways_to_send_a_key(client: TestClient, header: dict[str, str]) -> None:
    assert client.post("/v1/completions", headers=header).json() == {"caller": "infer"}


@pytest.mark.parametrize("who", [None, "nobody", "infer"])
@pytest.mark.parametrize(
    "path",
    ["/sleep", "/sleep/", "//sleep", "/%73leep", "/sleep?a=/health", "/sleep;/health",
     "/health/../sleep", "/health/%2e%2e/sleep", "/Sleep", "/SLEEP", "/sleep%00", "/sleep%2f",
     "/sleep%0a", "/sleep%0d%0a", "/health%0a/../sleep"],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_round(client: TestClient, path: str, who: str | None) -> None:
    for method in ("POST", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "post", "Post"):
        override = {"X-HTTP-Method-Override": "POST", **bearer(who)}
        answer = client.request(method, path, headers=override, follow_redirects=False)
        assert answer.status_code >= 300, (method, path)
        if who is None and method != "OPTIONS":
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize("path", ["/v1/steering/nothing", "/v1/steering/vectors/a%0ab"])
def test_what_is_not_there_among_our_routes(client: TestClient, path: str) -> None:
    assert refused(client.get(path)) == (401, "authentication_error", "invalid_api_key")
    found = refused(client.get(path, headers=bearer("infer")))
    assert found == (404, "not_found_error", "route_not_found")


@pytest.mark.parametrize("who", CALLERS)
def test_web_sockets(client: TestClient, who: str | None) -> None:
    if who in ("infer", "admin"):
        with client.websocket_connect("/v1/realtime", headers=bearer(who)) as socket:
            assert socket.receive_text() == who
    else:
        with (
            pytest.raises(WebSocketDisconnect) as refusal,
            client.websocket_connect("/v1/realtime", headers=bearer(who)),
        ):
            raise AssertionError("it was accepted")
        reason = "scope_missing" if who in ONE_EACH else "invalid_api_key"
        assert (refusal.value.code, refusal.value.reason) == (1008, reason)
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/v1/secret", headers=bearer(who)),
    ):
        raise AssertionError("a web socket that nobody has listed was accepted")


def test_admin_calls_leave_a_line(
    client: TestClient, audited: Callable[[], list[dict[str, Any]]]
) -> None:
    long = {"X-Request-Id": "r" * 5000, **bearer("admin")}
    assert client.post("/sleep", headers=long).status_code == 200
    assert client.post("/wake_up", headers=bearer("admin")).status_code == 500
    assert client.post("/sleep", headers=bearer("writer")).status_code == 403
    assert client.get("/is_paused", headers=bearer("admin")).status_code == 200
    assert client.post("/v1/completions", headers=bearer("admin")).status_code == 200
    lines = audited()
    said = [(n["audit"], n["key"], n["method"], n["path"], n["status"]) for n in lines]
    assert said == [
        ("admin.called", "admin", "POST", "/sleep", 200),
        ("admin.called", "admin", "POST", "/wake_up", None),
    ]
    assert lines[0]["client"] == "testclient"
    assert 0 < len(lines[0]["request_id"]) < 1000
    assert lines[1]["request_id"] is None


def test_nothing_tells_a_key(
    client: TestClient,
    audited: Callable[[], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-steersman-of-nobody"
    for need, (method, path) in ROUTES.items():
        answer = client.request(method, path, headers=bearer(secret))
        assert secret not in answer.text + str(answer.headers), need
    assert client.post("/sleep", headers=bearer("admin")).status_code == 200
    said = caplog.text + "".join(capsys.readouterr()) + json.dumps(audited())
    labels = str([sample for metric in REGISTRY.collect() for sample in metric.samples])
    assert secret not in said + labels


def counted(name: str) -> float:
    return REGISTRY.get_sample_value("steering_key_requests_total", {"key": name}) or 0.0


def test_requests_that_got_in_are_counted_by_key(client: TestClient) -> None:
    before = counted("infer")
    client.post("/v1/completions", headers=bearer("infer"))
    client.get("/v1/models", headers=bearer("infer"))
    client.post("/sleep", headers=bearer("infer"))
    client.get("/health", headers=bearer("infer"))
    assert counted("infer") == before + 2
    assert counted("") == 0.0


@pytest.mark.parametrize("opened", [False, True])
def test_the_metrics_are_open_where_the_file_says_so(tmp_path: Path, opened: bool) -> None:
    path = one_each(tmp_path / "keys.yaml")
    if opened:
        path.write_text(f"public: [/metrics]\n{path.read_text()}")
    inner = app(Keys(path))
    inner.add_api_route("/metrics", lambda: "", methods=["GET"])
    client = TestClient(inner, raise_server_exceptions=False)
    assert client.get("/metrics").status_code == (200 if opened else 401)
    assert client.get("/v1/models").status_code == 401
    for who in ONE_EACH:
        wanted = 200 if opened or who in ("prometheus", "admin") else 403
        assert client.get("/metrics", headers=bearer(who)).status_code == wanted, who


def test_over_the_rate(tmp_path: Path) -> None:
    found = keys(tmp_path, entry("slow", requests_per_minute=3), entry("other"))
    client = TestClient(app(found))
    asked = [client.get("/v1/models", headers=bearer("slow")) for _ in range(5)]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 429, 429]
    assert refused(asked[-1]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(asked[-1].headers["Retry-After"]) <= 20
    assert client.get("/v1/models", headers=bearer("other")).status_code == 200
    # What needs no key costs nothing of it.
    assert client.get("/health", headers=bearer("slow")).status_code == 200


class Waiting:
    """An app whose answers end when they are told to, or fail."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.fail = False

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.go.wait()
        if self.fail:
            raise RuntimeError("broken off")
        await send({"type": "http.response.body", "body": b""})


async def call(gate: Authenticate, key: str) -> list[Message]:
    sent: list[Message] = []
    listed = FastAPI()
    listed.add_api_route("/v1/completions", lambda: None, methods=["POST"])
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "app": listed,
        "headers": [(b"authorization", f"Bearer {key}".encode())], "client": ("10.0.0.1", 1),
        "query_string": b"", "root_path": "",
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await gate(scope, receive, send)
    return sent


@pytest.mark.parametrize("end", ["whole", "failed", "cancelled"])
async def test_at_once(tmp_path: Path, end: str) -> None:
    inner = Waiting()
    gate = Authenticate(inner, keys(tmp_path, entry("two", INFER, max_concurrent_requests=2)))
    for _ in range(3):
        inner.go.clear()
        running = [asyncio.create_task(call(gate, "two")) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in range(3):
            sent = await call(gate, "two")
            assert sent[0]["status"] == 429
            assert b"too_many_concurrent_requests" in sent[1]["body"]
        inner.fail = end == "failed"
        if end == "cancelled":
            for task in running:
                task.cancel()
        inner.go.set()
        await asyncio.gather(*running, return_exceptions=True)
    inner.fail = False
    assert (await call(gate, "two"))[0]["status"] == 200


def test_a_bad_file_shows_and_a_good_one_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes and scrapes come to a replica without clients, too."""
    monkeypatch.setattr(file, "LOOK_EVERY_S", 0.0)
    path = one_each(tmp_path / "keys.yaml")
    probe = TestClient(app(Keys(path)))
    good = path.read_text()
    for text, stale in (("keys: [", 1), (good, 0)):
        path.write_text(text)
        assert probe.get("/health").status_code == 200
        assert REGISTRY.get_sample_value("steering_keys_stale") == stale
