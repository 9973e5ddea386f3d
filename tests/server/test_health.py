"""`GET /ready`: every reason against it, alone and together."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from vllm.v1.engine.exceptions import EngineDeadError

from steersman.server import health
from steersman.server.drain import Drain
from steersman.vectors.library.library import Library


class Engine:
    dead = False

    async def check_health(self) -> None:
        if self.dead:
            raise EngineDeadError


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    made = FastAPI()
    made.include_router(health.router)
    made.state.engine_client = Engine()
    made.state.steersman = SimpleNamespace(drain=Drain(), whole_library=Library(tmp_path))
    return made


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    # With its life cycle: one loop for all calls, as on a server.
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def reasons(client: TestClient) -> list[str]:
    answer = client.get("/ready")
    body: dict[str, Any] = answer.json()
    gauge = REGISTRY.get_sample_value("steering_ready")
    if answer.status_code == 200:
        assert body == {"status": "ready"}
        assert REGISTRY.get_sample_value("steering_library_writable") == 1
        assert gauge == 1
        return []
    assert answer.status_code == 503
    assert body.keys() == {"status", "reasons"}
    assert body["status"] == "not_ready"
    assert body["reasons"]
    assert int(answer.headers["retry-after"]) >= 1
    assert gauge == 0
    found: list[str] = body["reasons"]
    return found


def test_ready(client: TestClient) -> None:
    assert reasons(client) == []


def test_before_the_start_up_check(app: FastAPI, client: TestClient) -> None:
    app.state.steersman = None
    (reason,) = reasons(client)
    assert "start-up check" in reason


def test_draining_and_a_dead_engine(app: FastAPI, client: TestClient) -> None:
    app.state.engine_client.dead = True
    assert reasons(client) == ["the engine is dead"]
    app.state.steersman.drain.begin()
    assert reasons(client) == ["the engine is dead", "draining"]
    app.state.engine_client.dead = False
    assert reasons(client) == ["draining"]


def test_a_library_that_cannot_be_read_and_can_be_again(
    app: FastAPI, client: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "names").rename(tmp_path / "away")
    (reason,) = reasons(client)
    assert "disk" in reason
    # Anybody may ask: no path of the server's is told.
    assert str(tmp_path) not in reason
    (tmp_path / "away").rename(tmp_path / "names")
    assert reasons(client) == []


def test_shared_threads_that_are_all_taken_change_nothing(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LIBRARY_WITHIN_S", 10.0)
    go, taken = threading.Event(), threading.Semaphore(0)

    @app.get("/takes-one")
    def takes_one() -> None:
        taken.release()
        go.wait()

    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(client.get, "/takes-one") for _ in range(60)]
        # Starlette has forty: these are all of them.
        for _ in range(40):
            taken.acquire()
        try:
            assert reasons(client) == []
        finally:
            go.set()
        assert {one.result().status_code for one in waiting} == {200}


def test_a_disk_that_hangs_costs_one_thread(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LIBRARY_WITHIN_S", 0.02)
    back, looks = threading.Event(), []

    def count() -> int:
        looks.append(threading.get_ident())
        back.wait()
        return 0

    real = app.state.steersman.whole_library
    app.state.steersman.whole_library = SimpleNamespace(count=count, root=real.root)
    threads = set()
    for _ in range(20):
        (reason,) = reasons(client)
        assert "has not answered" in reason
        threads.add(threading.active_count())
    assert len(looks) == 1
    assert len(threads) == 1
    app.state.steersman.whole_library = real
    back.set()
    monkeypatch.setattr(health, "LIBRARY_WITHIN_S", 10.0)
    assert reasons(client) == []
    assert reasons(client) == []
