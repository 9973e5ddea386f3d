"""Jobs and threads: cancelling one that works in a thread, and files, which only threads touch."""

import asyncio
import logging
import threading
import time
from pathlib import Path

import pytest

from steersman.server.errors import TooManyJobs
from steersman.server.extraction import job as state
from steersman.server.extraction.job import Job, JobStatus, Phase, Stop, in_thread
from steersman.server.extraction.jobs import Jobs


class Endless:
    """Work that goes on until it is told to stop, and then takes `seconds` to end."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.began, self.ended = threading.Event(), threading.Event()
        self.seconds = seconds

    def __call__(self, stop: Stop) -> None:
        self.began.set()
        try:
            while True:
                stop()
                time.sleep(0.01)
        finally:
            time.sleep(self.seconds)
            self.ended.set()


async def test_the_turn_is_kept_until_the_thread_has_ended(tmp_path: Path) -> None:
    """And the thread is told to, however often somebody cancels."""
    fit = Endless(0.3)
    seen: list[bool] = []
    turn = asyncio.Event()

    async def long(job: Job) -> None:
        await in_thread(job, fit)

    async def next_one(job: Job) -> None:
        seen.append(fit.ended.is_set())
        turn.set()

    jobs = Jobs(tmp_path, 2)
    first = await jobs.submit("caa", "a", long)
    await jobs.submit("caa", "b", next_one)
    await asyncio.to_thread(fit.began.wait)
    for _ in range(3):
        await jobs.cancel(jobs.find(first.id))
        await asyncio.sleep(0.02)
    await asyncio.wait_for(turn.wait(), 10)
    assert seen == [True]
    assert jobs.find(first.id).status == "cancelled"


async def test_a_thread_is_stopped_without_the_books_too() -> None:
    """As when the server stops: nobody has cancelled the job."""
    fit = Endless()
    task = asyncio.create_task(in_thread(Job("job-1", "caa", "a"), fit))
    await asyncio.to_thread(fit.began.wait)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert fit.ended.is_set()


async def test_an_error_can_be_written_whatever_it_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest-xdist cannot hand over what is logged of it.
    caplog.set_level(logging.CRITICAL, logger="vllm.steersman")

    async def fail(job: Job) -> None:
        raise TypeError("\ud800" * 100_000)

    jobs = Jobs(tmp_path, 1)
    job = await jobs.submit("caa", "a", fail)
    await asyncio.sleep(0.5)
    error = jobs.find(job.id).error
    assert error is not None
    assert len(error["message"].encode()) < 20_000


def held_back(
    monkeypatch: pytest.MonkeyPatch, what: bytes = b""
) -> tuple[threading.Event, threading.Event]:
    """Has states with `what` in them wait before they are written: set when one does; to be set."""
    waits, goes_on = threading.Event(), threading.Event()
    write = vars(state)["replace"]

    def slow(path: Path, data: bytes) -> None:
        if what in data:
            waits.set()
            assert goes_on.wait(30)
        write(path, data)

    monkeypatch.setattr(state, "replace", slow)
    return waits, goes_on


async def test_a_volume_that_hangs_stops_jobs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the loop, nor the loop's own threads, of which vLLM needs one to stop."""
    hangs, goes_on = held_back(monkeypatch)

    async def work(job: Job) -> None:
        await job.enter(Phase.CAPTURING)

    many = 40  # asyncio has 32 threads at most.
    jobs = Jobs(tmp_path, many)
    submitted = [asyncio.create_task(jobs.submit("caa", "a", work)) for _ in range(many)]
    assert await asyncio.to_thread(hangs.wait, 10)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "a thread"), 10) == "a thread"
    assert jobs.unfinished == many
    with pytest.raises(TooManyJobs):
        await jobs.submit("caa", "a", work)
    goes_on.set()
    made = await asyncio.gather(*submitted)
    await asyncio.gather(*jobs._tasks.values())
    assert {jobs.find(job.id).status for job in made} == {"succeeded"}


async def test_an_older_state_lands_on_no_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat that is still being written when the job ends."""
    writes, goes_on = held_back(monkeypatch, b'"running"')
    job = Job("job-1", "caa", "a", status=JobStatus.RUNNING, folder=tmp_path)
    beat = asyncio.create_task(asyncio.to_thread(job.save))
    assert await asyncio.to_thread(writes.wait, 10)
    job.status = JobStatus.SUCCEEDED
    end = asyncio.create_task(asyncio.to_thread(job.save))
    await asyncio.sleep(0.2)
    goes_on.set()
    await asyncio.gather(beat, end)
    assert Jobs(tmp_path, 1).find("job-1").status == "succeeded"
