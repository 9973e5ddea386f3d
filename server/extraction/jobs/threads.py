"""Work in a thread, and how to have it stop."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from steersman.server.extraction.jobs.job import Cancelled, Job

T = TypeVar("T")
Stop = Callable[[], None]
"""Raises `Cancelled` if nobody wants the work any more. To be called often."""


async def in_thread(job: Job, work: Callable[[Stop], T]) -> T:
    """What `work` makes, in a thread. Cancelled, it waits for the thread's end: until then the job
    keeps its turn."""
    unwanted = threading.Event()

    def stop() -> None:
        job.check()
        if unwanted.is_set():
            raise Cancelled

    # In this context: who is calling is part of it.
    here = contextvars.copy_context()
    thread = asyncio.get_running_loop().run_in_executor(None, here.run, work, stop)
    try:
        return await asyncio.shield(thread)
    finally:
        unwanted.set()
        # Whoever cancels twice does not end it sooner.
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
