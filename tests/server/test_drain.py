"""SIGTERM, with an engine client that is made up: nothing new, what runs ends, then the engine."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from prometheus_client import REGISTRY
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from steersman.server import drain
from steersman.server.drain import Drain
from steersman.server.middleware.drain_gate import DrainGate


class Engine:
    """Writes down what it is told, in order."""

    def __init__(self, pausing: Callable[[], Any] | None = None) -> None:
        self.told: list[Any] = []
        self.errored = False
        self._pausing = pausing

    def shutdown(self, timeout: float | None = None) -> None:
        self.told.append(("stop", timeout))

    def pause_generation(self, *, mode: str, clear_cache: bool) -> Any:
        self.told.append(("abort", mode, clear_cache))
        return self._pausing() if self._pausing else asyncio.sleep(0)


class Site:
    """An app behind the gate, whose answers end when `go` is set, and what watches it."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or Engine()
        self.drain = Drain()
        self.jobs = SimpleNamespace(unfinished=0, stop=self._stop)
        self.go, self.begun = asyncio.Event(), 0
        self.cancelled = 0
        app = FastAPI()
        app.add_api_route("/health", lambda: "alive", methods=["GET"])
        app.add_api_route("/v1/completions", self._answer, methods=["POST"])
        app.add_api_route("/v1/responses", self._stream, methods=["POST"])
        app.add_middleware(DrainGate, drain=self.drain)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")
        self.server = SimpleNamespace(force_exit=False)
        state = SimpleNamespace(server=self.server)
        self.drain.watch(self.engine, self.jobs, state)  # type: ignore[arg-type]

    def _stop(self) -> None:
        self.engine.told.append("jobs stopped")
        self.jobs.unfinished = 0

    async def _answer(self) -> str:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "whole"

    async def _stream(self) -> StreamingResponse:
        async def chunks() -> Any:
            yield "one "
            yield await self._answer()

        return StreamingResponse(chunks())

    async def ask(self, path: str = "/v1/completions") -> "asyncio.Task[httpx.Response]":
        """A request that has got to its handler."""
        before = self.begun
        task = asyncio.create_task(self.http.post(path))
        await until(lambda: self.begun > before)
        return task

    def terminate(self, timeout: float | None = 60.0) -> "asyncio.Future[None]":
        """As vLLM does at SIGTERM."""
        call = partial(self.engine.shutdown, timeout=timeout)
        return asyncio.get_running_loop().run_in_executor(None, call)

    @property
    def stopped(self) -> bool:
        return any(one[0] == "stop" for one in self.engine.told)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  # What is waited for is in the code under test.
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "LAST_WORDS_S", 0.2)
    monkeypatch.setattr(Drain, "engine_died", False)


async def test_with_nothing_running_the_engine_is_stopped() -> None:
    site = Site()
    await site.terminate()
    ((what, timeout),) = site.engine.told
    assert what == "stop"
    assert drain.ENGINE_STOPS_S <= timeout <= 60
    assert site.drain.draining
    assert REGISTRY.get_sample_value("steering_ready") == 0
    assert REGISTRY.get_sample_value("steering_draining") == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
async def test_what_runs_ends_before_the_engine_is_stopped(path: str) -> None:
    site = Site()
    running = [await site.ask(path) for _ in range(3)]
    assert site.drain.running == 3
    done = site.terminate()
    await until(lambda: site.drain.draining)
    await asyncio.sleep(0.2)
    assert not site.engine.told
    site.go.set()
    answers = await asyncio.gather(*running)
    assert all("whole" in answer.text and answer.status_code == 200 for answer in answers)
    # Those whose answers had not begun have their clients go elsewhere for the next.
    told = {answer.headers.get("connection") for answer in answers}
    assert told == ({"close"} if path == "/v1/completions" else {None})
    await done
    assert [one[0] for one in site.engine.told] == ["stop"]
    assert site.drain.running == 0


async def test_nothing_new_gets_in_but_what_probes_ask() -> None:
    site = Site()
    running = await site.ask()
    done = site.terminate()
    await until(lambda: site.drain.draining)
    late = await site.http.post("/v1/completions")
    assert late.status_code == 503
    assert late.headers["connection"] == "close"
    assert int(late.headers["retry-after"]) >= 1
    assert late.json()["error"]["code"] == "draining"
    assert (await site.http.get("/nowhere")).status_code == 503
    assert (await site.http.get("/health")).status_code == 200
    assert site.begun == 1
    site.go.set()
    assert (await running).status_code == 200
    await done


async def test_jobs_are_waited_for() -> None:
    site = Site()
    site.jobs.unfinished = 2
    done = site.terminate()
    await until(lambda: site.drain.draining)
    await asyncio.sleep(0.15)
    assert not site.engine.told
    site.jobs.unfinished = 0
    await done
    assert [one[0] for one in site.engine.told] == ["stop"]


async def test_what_does_not_end_in_time_is_aborted_then_cancelled() -> None:
    site = Site()
    running = await site.ask()
    site.jobs.unfinished = 1
    await site.terminate(0.5)
    assert site.engine.told[:2] == ["jobs stopped", ("abort", "abort", False)]
    assert site.engine.told[2] == ("stop", drain.ENGINE_STOPS_S)
    async with asyncio.timeout(20):
        await asyncio.gather(running, return_exceptions=True)
    assert site.cancelled == 1
    assert site.drain.running == 0
    # A client that reads nothing would keep uvicorn waiting for its connection.
    await asyncio.sleep(5 * drain.LAST_WORDS_S)
    assert site.server.force_exit


@pytest.mark.parametrize("seconds", [0.4, 1.0, 4.0])
async def test_a_short_timeout_drains_too(
    seconds: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drain, "LAST_WORDS_S", 2.0)
    caplog.set_level("INFO", "vllm.steersman")
    site = Site()
    running = await site.ask()
    done = site.terminate(seconds)
    await until(lambda: site.drain.draining)
    await asyncio.sleep(seconds / 4)
    assert not site.engine.told
    site.go.set()
    assert (await running).text == '"whole"'
    await done
    assert [one[0] for one in site.engine.told] == ["stop"]
    assert "1 requests and jobs finished, 0 cut off" in caplog.text


async def test_the_end_says_what_finished_and_what_was_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "vllm.steersman")
    site = Site()
    running = [await site.ask(), await site.ask("/v1/responses")]
    running[0].cancel()
    done = site.terminate(0.5)
    site.jobs.unfinished = 1
    await done
    await asyncio.gather(*running, return_exceptions=True)
    assert "finished, 2 cut off by --shutdown-timeout" in caplog.text


async def test_an_aborted_request_may_say_so() -> None:
    site = Site()

    async def abort() -> None:
        site.go.set()

    site.engine._pausing = abort
    running = await site.ask("/v1/responses")
    await site.terminate(0.5)
    assert (await running).text == "one whole"
    assert site.cancelled == 0


async def fails() -> None:
    raise RuntimeError("the engine is dead")


async def hangs() -> None:
    await asyncio.Event().wait()


def raises() -> None:
    raise RuntimeError("nothing to await")


@pytest.mark.parametrize("pausing", [fails, hangs, raises])
async def test_the_engine_is_stopped_whatever_aborting_does(pausing: Any) -> None:
    site = Site(Engine(pausing))
    running = await site.ask()
    async with asyncio.timeout(20):
        await site.terminate(0.4)
    assert site.stopped
    site.go.set()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("seconds", [None, 0, 0.0])
async def test_without_a_timeout_nothing_is_waited_for(seconds: float | None) -> None:
    site = Site()
    running = await site.ask()
    async with asyncio.timeout(20):
        await site.terminate(seconds)
    assert site.engine.told == [("stop", seconds)]
    assert (await site.http.post("/v1/completions")).status_code == 503
    site.go.set()
    await running


async def test_a_second_call_does_not_wait() -> None:
    site = Site()
    running = await site.ask()
    first = site.terminate()
    await until(lambda: site.drain.draining)
    async with asyncio.timeout(20):
        await site.terminate(7.0)
    assert site.engine.told == [("stop", 7.0)]
    assert not first.done()
    site.go.set()
    await running
    await first


async def test_on_the_loops_own_thread_it_does_not_wait_for_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # As vLLM does when its engine has died, or a start failed.
    site = Site()
    running = await site.ask()
    site.engine.errored = True
    site.engine.shutdown(timeout=1.0)
    assert site.engine.told == [("stop", 1.0)]
    assert "draining broke off" not in caplog.text
    assert Drain.engine_died
    site.go.set()
    await running


async def test_a_client_that_goes_away_is_not_waited_for() -> None:
    site = Site()
    running = await site.ask()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert site.drain.running == 0
    await site.terminate()
    assert not Drain.engine_died


async def test_requests_that_fail_are_not_waited_for() -> None:
    site = Site()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError

    gate = DrainGate(broken, site.drain)
    scope = {"type": "http", "method": "POST", "path": "/x", "app": FastAPI(), "headers": []}
    with pytest.raises(RuntimeError):
        await gate(scope, None, None)  # type: ignore[arg-type]
    assert site.drain.running == 0


def test_web_sockets_are_turned_away() -> None:
    app = FastAPI()

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    watched = Drain()
    app.add_middleware(DrainGate, drain=watched)
    client = TestClient(app)
    with client.websocket_connect("/v1/realtime"):
        pass
    watched.begin()
    before = refused("draining")
    with (
        pytest.raises(WebSocketDisconnect) as refusal,
        client.websocket_connect("/v1/realtime"),
    ):
        raise AssertionError("it was accepted")
    assert (refusal.value.code, refusal.value.reason) == (1012, "draining")
    assert refused("draining") == before + 1


def refused(code: str) -> float:
    """How often a call was refused with `code`."""
    return REGISTRY.get_sample_value("steering_rejections_total", {"reason": code}) or 0.0
