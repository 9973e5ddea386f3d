"""A job's state, and the small file beside the library that keeps it.

These files are read and written in threads only, so that a disk that hangs stops the job and not
the server.
"""

import asyncio
import contextlib
import contextvars
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from steersman.vectors.library.disk import disk_errors, replace

EVERY_S: Final = 1.0
_MEMORY: Final = ("folder", "began_at", "saved_at", "saving")
"""Fields of a job that are not written."""
_T = TypeVar("_T")
_DISK: Final = ThreadPoolExecutor(4, "steersman-jobs")
"""Not the loop's own threads: vLLM needs one of those to stop, also when the volume hangs."""


async def on_disk(work: Callable[..., _T], *args: Any) -> _T:
    """Run `work` in one of the threads for the files of jobs, and return its result."""
    return await asyncio.get_running_loop().run_in_executor(_DISK, work, *args)


Stop = Callable[[], None]
"""Raises `Cancelled` if nobody wants the work any more. To be called often."""


class JobStatus(StrEnum):
    """Whether a job waits, runs or has ended."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


EXTRACT: Final = "extract"
PATCH: Final = "patch"
"""The kinds of jobs."""
ENDED: Final = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class Phase(StrEnum):
    """The part of the work that a job does now."""

    WAITING = "waiting"
    READING = "reading"
    CAPTURING = "capturing"
    PATCHING = "patching"
    FITTING = "fitting"
    KEEPING = "keeping"
    OVER = "over"


class Cancelled(Exception):
    """The job was cancelled."""


@dataclass
class Job:
    """One job, as `GET /v1/steering/jobs/{id}` shows it."""

    id: str
    method: str
    name: str
    kind: str = EXTRACT
    status: JobStatus | str = JobStatus.QUEUED
    phase: Phase = Phase.WAITING
    created_at: int = field(default_factory=lambda: int(time.time()))
    started_at: float | None = None
    ended_at: float | None = None
    updated_at: float = field(default_factory=time.time)
    owner: str | None = None
    """Name of the key that it was submitted with."""
    makes: list[str] = field(default_factory=list)
    """Names of the vectors to come; `name` itself, but for styles."""
    done: int = 0
    total: int = 0
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of some texts, the token that is read."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    """What is likely not meant: a code and a message each."""
    result: list[str] = field(default_factory=list)
    patch: dict[str, Any] | None = None
    """The table of a patching job that has succeeded."""
    error: dict[str, Any] | None = None
    folder: Path | None = field(default=None, repr=False)
    """Of its state; not written there."""
    elapsed_s: float = 0.0
    """Since it began to run, when its state was written."""
    began_at: float | None = field(default=None, repr=False)
    saved_at: float = field(default=0.0, repr=False)
    """Both by the monotonic clock: the wall clock may be set."""
    saving: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held from looking at the state until it is written: no older one lands on a newer."""

    async def enter(self, phase: Phase) -> None:
        """Begin the next part of the work. Raises `LibraryError`."""
        self.phase = phase
        await on_disk(self.save)

    async def advance(self) -> None:
        """Count one more text as done. Raises `LibraryError`."""
        self.done += 1
        if time.monotonic() - self.saved_at >= EVERY_S:
            await on_disk(self.save)

    def check(self) -> None:
        """Raise `Cancelled` if the job was cancelled, here or in another API server. Reads the
        disk, as `save` writes it: call both in threads. Raises `LibraryError`, too."""
        if self.folder is None:
            return
        with disk_errors():
            cancelled = (self.folder / f"{self.id}.cancel").exists()
        if cancelled:
            raise Cancelled

    def save(self) -> None:
        """Write the job's state. Raises `LibraryError`."""
        if self.folder is None:
            return
        with self.saving:
            self.saved_at, self.updated_at = time.monotonic(), time.time()
            if self.began_at is not None:
                self.elapsed_s = self.saved_at - self.began_at
            state = {name: getattr(self, name) for name in WRITTEN}
            with disk_errors():
                replace(self.folder / f"{self.id}.json", json.dumps(state).encode())

    def to_json(self) -> dict[str, Any]:
        """The job as clients see it: rate in texts a second, estimate in seconds."""
        rate = eta = None
        if self.elapsed_s and self.done:
            rate = round(self.done / self.elapsed_s, 2)
            if self.status is JobStatus.RUNNING:
                eta = round((self.total - self.done) * self.elapsed_s / self.done, 1)
        return {
            "id": self.id,
            "object": "steering.job",
            "type": self.kind,
            "status": self.status,
            "phase": self.phase,
            "method": self.method,
            "name": self.name,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "progress": {"done": self.done, "total": self.total, "rate": rate, "eta_s": eta},
            "bad_rows": self.bad_rows,
            "samples": self.samples,
            "warnings": self.warnings,
            "vectors": self.result,
            **({"patch": self.patch} if self.kind == PATCH else {}),
            "error": self.error,
        }


WRITTEN: Final = frozenset(f.name for f in fields(Job)) - {*_MEMORY}
"""Fields of a job that are in its file."""


NICE: Final = 5
"""Linux gives a thread 1 / 1.25**5 of what one of priority 0 gets. Less would starve it, and the
event loop with it, which waits for Python's lock."""


def _give_way() -> None:
    """Lower the priority of an extraction thread. A fit takes seconds of one core; beside an engine
    that keeps all cores busy it gets a quarter of one."""
    import torch

    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    torch.set_num_threads(1)


_THREADS: Final = ThreadPoolExecutor(4, "extraction", initializer=_give_way)
"""Of their own: a thread's priority cannot be raised again."""


async def in_thread(job: Job, work: Callable[[Stop], _T]) -> _T:
    """Run `work` in a thread and return its result. If cancelled, it waits until the thread has
    ended; until then the job keeps its turn."""
    unwanted = threading.Event()

    def stop() -> None:
        job.check()
        if unwanted.is_set():
            raise Cancelled

    # In this context: who is calling is part of it.
    here = contextvars.copy_context()
    thread = asyncio.get_running_loop().run_in_executor(_THREADS, here.run, work, stop)
    try:
        return await asyncio.shield(thread)
    finally:
        unwanted.set()
        # Whoever cancels twice does not end it sooner.
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
