"""All jobs of a library: which run, which wait, and the results of the others.

A job runs in the API server that took its request. Its state is a small file beside the library, so
every API server can show it and cancel it.
"""

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from steersman.server.error_response import envelope
from steersman.server.errors import JobLost, NotAllowed, TooManyJobs
from steersman.server.extraction.job import (
    ENDED,
    EXTRACT,
    WRITTEN,
    Cancelled,
    Job,
    JobStatus,
    Phase,
    on_disk,
)
from steersman.server.metrics import METRICS
from steersman.vectors.errors import LibraryError, SteersmanError, VectorNotFound, shown
from steersman.vectors.library.disk import TEMP_PREFIX, disk_errors, remove_older

logger = logging.getLogger("vllm.steersman")

KEPT: Final = 100
"""Files of jobs that ended; the oldest go first."""
LOST_AFTER_S: Final = 60.0
"""A job that runs writes its state more often than that."""
RESTS_AFTER_S: Final = 3600.0
LONGEST_MESSAGE: Final = 2000
"""Characters of an error: messages of some libraries repeat all that they were given."""
_ID: Final = re.compile(r"job-[0-9a-z]{1,32}", re.ASCII)


class Jobs:
    """All jobs of a library; this API server runs one at a time."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._turn = asyncio.Lock()
        self._owners: dict[str, str | None] = {}
        """Of the jobs that run or wait here, the name of the key."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = False
        self._forget_old()

    @property
    def unfinished(self) -> int:
        """Number of jobs that run or wait in this API server."""
        return len(self._owners)

    async def submit(
        self,
        method: str,
        name: str,
        work: Callable[[Job], Coroutine[Any, Any, None]],
        owner: str | None = None,
        most_of_owner: int | None = None,
        makes: Sequence[str] = (),
        kind: str = EXTRACT,
    ) -> Job:
        """Run `work` when it is its turn. `most_of_owner`: the most jobs of `owner` at
        once. Raises `TooManyJobs` or `LibraryError`."""
        if self.unfinished >= self.most:
            raise TooManyJobs(
                f"{self.unfinished} jobs run or wait, the most that this server takes; try again "
                "later, or cancel one with DELETE /v1/steering/jobs/{id}"
            )
        if most_of_owner == 0:
            raise NotAllowed("this key may make no vectors on the server (max_jobs)")
        owned = list(self._owners.values()).count(owner)
        if most_of_owner is not None and owned >= most_of_owner:
            raise TooManyJobs(
                f"{owned} jobs of this key run or wait, its limit (max_jobs); try again "
                "later, or cancel one with DELETE /v1/steering/jobs/{id}"
            )
        job = Job(
            f"job-{secrets.token_hex(8)}",
            method,
            name,
            kind,
            owner=owner,
            makes=list(makes),
            folder=self.folder,
        )
        # Counted before it is written: who comes meanwhile finds the place taken.
        self._owners[job.id] = owner
        try:
            await on_disk(self._begin, job)
        except BaseException:
            self._forget(job.id)
            raise
        task = self._tasks[job.id] = asyncio.create_task(self._run(job, work))
        self._count()
        task.add_done_callback(lambda _: self._forget(job.id))
        return job

    def stop(self) -> None:
        """End all jobs as lost, because the server is about to stop."""
        self._stopped = True
        for task in self._tasks.values():
            task.cancel()

    def find(self, job_id: str) -> Job:
        """The job with this id. Raises `VectorNotFound` or `LibraryError`."""
        path = self.folder / f"{job_id}.json"
        with disk_errors():
            there = _ID.fullmatch(job_id) and path.is_file()
        if not there:
            raise job_not_found(job_id)
        return self._read(path)

    def list(self) -> list[Job]:
        """All jobs whose files can be read, newest first. Raises `LibraryError`."""
        found = []
        with disk_errors():
            paths = sorted(self.folder.glob("job-*.json"))
        for path in paths:
            with contextlib.suppress(VectorNotFound, LibraryError):
                found.append(self._read(path))
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)

    async def cancel(self, job: Job) -> bool:
        """Cancel a job. Returns whether it had not ended yet. Raises `LibraryError`."""
        if job.status in ENDED:
            return False
        await on_disk(self._say_cancelled, job)
        if job.id in self._tasks:
            self._tasks[job.id].cancel()
        job.status = JobStatus.CANCELLING
        return True

    def _begin(self, job: Job) -> None:
        with disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
        job.save()

    def _say_cancelled(self, job: Job) -> None:
        with disk_errors():
            (self.folder / f"{job.id}.cancel").touch()

    def _forget(self, job_id: str) -> None:
        self._tasks.pop(job_id, None)
        self._owners.pop(job_id, None)
        self._count()

    def _count(self) -> None:
        METRICS.jobs.labels("running").set(min(1, self.unfinished))
        METRICS.jobs.labels("waiting").set(max(0, self.unfinished - 1))

    def _read(self, path: Path) -> Job:
        text = ""
        with disk_errors(), contextlib.suppress(FileNotFoundError):
            text = path.read_text()
        try:
            written = json.loads(text)
            # A newer server on the same directory may write more.
            job = Job(**{name: value for name, value in written.items() if name in WRITTEN})
            # Unless a newer server has others.
            with contextlib.suppress(ValueError):
                job.status = JobStatus(job.status)
        except (ValueError, TypeError, AttributeError):
            raise job_not_found(path.stem) from None
        # Either way: the clock may have been set back.
        ago = abs(time.time() - job.updated_at)
        alive = job.id in self._owners or ago < LOST_AFTER_S
        if job.status not in ENDED and not alive:
            _lose(job)
        return job

    async def _run(self, job: Job, work: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        beat = asyncio.create_task(_beat(job))
        try:
            async with self._turn:
                await on_disk(job.check)
                job.status, job.started_at = JobStatus.RUNNING, time.time()
                job.began_at = time.monotonic()
                await on_disk(job.save)
                await work(job)
            job.status = JobStatus.SUCCEEDED
        except (Cancelled, asyncio.CancelledError):
            job.status = JobStatus.CANCELLED
            if self._stopped:
                _lose(job)
        except Exception as error:
            job.status = JobStatus.FAILED
            job.error = envelope(error)["error"]
            job.error["message"] = _writable(job.error["message"])
            if not isinstance(error, SteersmanError | ValueError):
                logger.exception("Job %s failed", job.id)
        finally:
            beat.cancel()
            job.ended_at, job.phase = time.time(), Phase.OVER
            # Whoever cancels twice does not end the thread.
            await on_disk(self._end, job)

    def _end(self, job: Job) -> None:
        # On a full disk the job is reported as lost later, and the server goes on.
        with contextlib.suppress(LibraryError):
            job.save()
        with contextlib.suppress(OSError):
            (self.folder / f"{job.id}.cancel").unlink(missing_ok=True)
        self._forget_old()

    def _forget_old(self) -> None:
        # Housekeeping: where it cannot be done, everything else can.
        with contextlib.suppress(OSError, LibraryError):
            self._remove_old()

    def _remove_old(self) -> None:
        if not self.folder.is_dir():
            return
        ended = [job for job in self.list() if job.status in ENDED]
        for job in ended[KEPT:]:
            (self.folder / f"{job.id}.json").unlink(missing_ok=True)
        # What servers that were killed left behind.
        remove_older(
            self.folder,
            time.time() - RESTS_AFTER_S,
            lambda name: name.startswith(TEMP_PREFIX) or name.endswith(".cancel"),
        )


def job_not_found(job_id: str) -> VectorNotFound:
    """The error for a job that does not exist, or that the caller may not see."""
    return VectorNotFound(
        f"there is no job {shown(job_id)}; GET /v1/steering/jobs lists them",
        param="job_id",
        code="job_not_found",
    )


def _lose(job: Job) -> None:
    job.status = JobStatus.FAILED
    lost = JobLost("the server that ran the job was stopped, or could not write the job's state")
    job.error = envelope(lost)["error"]


def _writable(message: str) -> str:
    return message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()


async def _beat(job: Job) -> None:
    """Write the job's state now and then, which shows that it is alive."""
    while True:
        await asyncio.sleep(LOST_AFTER_S / 4)
        with contextlib.suppress(LibraryError):
            await on_disk(job.save)
