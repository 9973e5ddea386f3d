"""Threads of our own: bounded, fair between keys, and out of each other's way."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.server import health
from steersman.server.auth.caller import Caller, caller, enter
from steersman.server.error_response import response
from steersman.server.errors import ServerBusy, TooManyRequests
from steersman.server.library.lanes import CHANGES, Lane
from tests.support.server.host import JOBS, VECTORS, Site, content
from tests.support.server.keys import permissions


class Work:
    """What waits until it is let go, and counts how much of it runs."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.ran = self.running = self.most = 0

    def __call__(self, value: Any = None) -> Any:
        with self.lock:
            self.ran += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(30)
        with self.lock:
            self.running -= 1
        return value


def asked(who: str, lane: Lane, work: Callable[..., Any], *args: Any) -> "asyncio.Task[Any]":
    """A call in a context of its own, as each request has one."""

    async def call() -> Any:
        enter(Caller(permissions(who) if who else Caller().permissions))
        return await lane.run(work, *args)

    return asyncio.create_task(call())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # Threads change it.
            await asyncio.sleep(0.001)


async def test_no_more_run_at_once_than_there_are_threads() -> None:
    lane, work = Lane("things", threads=2, waiting=8), Work()
    tasks = [asked("", lane, work, n) for n in range(10)]
    await until(lambda: lane.held == 10 and work.running == 2)
    work.go.set()
    assert await asyncio.gather(*tasks) == list(range(10))
    assert work.most == 2
    assert lane.held == 0


async def test_over_the_queue_is_a_503_with_retry_after() -> None:
    lane, work = Lane("things", threads=1, waiting=2), Work()
    tasks = [asked("", lane, work) for _ in range(3)]
    await until(lambda: lane.held == 3)
    with pytest.raises(ServerBusy) as refusal:
        await asked("", lane, work)
    answer = response(refusal.value)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert b'"server_busy"' in answer.body
    work.go.set()
    await asyncio.gather(*tasks)
    assert await asked("", lane, work, 7) == 7


async def test_one_key_leaves_room_for_another() -> None:
    lane, work = Lane("things", threads=1, waiting=7), Work()
    tasks = [asked("greedy", lane, work) for _ in range(4)]
    await until(lambda: lane.held == 4)
    with pytest.raises(TooManyRequests) as refusal:
        await asked("greedy", lane, work)
    assert response(refusal.value).status_code == 429
    tasks += [asked("modest", lane, work) for _ in range(4)]
    await until(lambda: lane.held == 8)
    work.go.set()
    await asyncio.gather(*tasks)


async def test_what_nobody_waits_for_any_more_never_runs() -> None:
    lane, work = Lane("things", threads=1, waiting=4), Work()
    first = asked("", lane, work)
    await until(lambda: work.running == 1)
    left = [asked("", lane, work) for _ in range(4)]
    await until(lambda: lane.held == 5)
    for task in left:
        task.cancel()
    assert all(isinstance(e, asyncio.CancelledError)
               for e in await asyncio.gather(*left, return_exceptions=True))  # fmt: skip
    assert lane.held == 1
    work.go.set()
    await first
    assert work.ran == 1


async def test_what_runs_is_waited_for_by_whoever_is_cancelled() -> None:
    lane, work = Lane("things", threads=1, waiting=0), Work()
    task = asked("", lane, work)
    await until(lambda: work.running == 1)
    task.cancel()
    await asyncio.sleep(0.02)
    # What the caller closes behind it, such as the file of an upload, is in use until now.
    assert not task.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.running == lane.held == 0


async def test_errors_and_the_caller_are_passed_on() -> None:
    lane = Lane("things", threads=1, waiting=1)

    def fails() -> None:
        raise ValueError(caller().permissions.name)

    with pytest.raises(ValueError, match=r"^alice$"):
        await asked("alice", lane, fails)
    assert lane.held == 0


async def _well() -> None:
    """An engine that is alive."""


def test_nobody_waits_for_uploads_but_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as may are stuck, in whatever part of the library: everything else goes on."""
    site = Site(tmp_path, None)
    site.app.include_router(health.router)
    site.app.state.engine_client = SimpleNamespace(check_health=_well)
    assert site.upload("", content(1), "there").status_code == 201
    library, go = site.state.whole_library, threading.Event()
    real, stuck = library.add, threading.Semaphore(0)

    def add(*args: Any, **kwargs: Any) -> Any:
        stuck.release()
        assert go.wait(60)
        return real(*args, **kwargs)

    monkeypatch.setattr(library, "add", add)
    with site.client, ThreadPoolExecutor(CHANGES._most + 2) as pool:
        uploads = [
            pool.submit(site.upload, "", content(n + 2), f"v{n}") for n in range(CHANGES._most)
        ]
        try:
            stuck.acquire()
            stuck.acquire()
            deletes = pool.submit(site.call, "", "DELETE", f"{VECTORS}/nobody")
            for _ in range(3):
                assert site.steer("", {"vectors": {"there": 1.0}}).status_code == 200
                assert site.names("") == ["there"]
                for path in (f"{VECTORS}/there", f"{VECTORS}/there/content", JOBS, "/ready",
                             f"{VECTORS}/there/inspect", "/v1/steering/capabilities"):  # fmt: skip
                    assert site.call("", "GET", path).status_code == 200, path
            assert not any(upload.done() and upload.result().status_code == 201
                           for upload in uploads)  # fmt: skip
        finally:
            go.set()
        statuses = [upload.result().status_code for upload in uploads]
        assert deletes.result().status_code in (404, 503)
    # The delete may have had the place of one.
    assert set(statuses) <= {201, 503}
    assert statuses.count(201) >= CHANGES._most - 1
