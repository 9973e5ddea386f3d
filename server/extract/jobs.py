"""The books of jobs: what runs, what waits, what came of the others.

A job runs in the API server that took its request; its state is a small file beside the library,
so that every API server can tell of it, and cancel it.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from server.errors import TooManyJobs, envelope
from vectors.disk import replace
from vectors.errors import SteersmanError, VectorNotFound, shown

logger = logging.getLogger("vllm.steersman")

KEPT: Final = 100
"""Files of jobs that ended; the oldest go first."""
LOST_AFTER_S: Final = 60.0
"""A job that runs writes its state more often than that."""
EVERY_S: Final = 1.0
LONGEST_MESSAGE: Final = 2000
"""Of an error, in characters: some of other people's say all that they were given."""
ENDED: Final = ("succeeded", "failed", "cancelled")


class Cancelled(Exception):
    """Somebody cancelled the job."""


@dataclass
class Job:
    """One job, as `GET /v1/steering/jobs/{id}` shows it."""

    id: str
    method: str
    name: str
    status: str = "queued"
    phase: str = "waiting"
    created_at: int = field(default_factory=lambda: int(time.time()))
    started_at: float | None = None
    ended_at: float | None = None
    updated_at: float = field(default_factory=time.time)
    done: int = 0
    total: int = 0
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    result: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    folder: Path | None = field(default=None, repr=False)

    def enter(self, phase: str) -> None:
        """Begin another part of the work."""
        self.phase = phase
        self.save()

    def advance(self) -> None:
        """One more text is done."""
        self.done += 1
        self.save(EVERY_S)

    def check(self) -> None:
        """Raise `Cancelled` if somebody cancelled it, here or in another API server."""
        if self.folder is not None and (self.folder / f"{self.id}.cancel").exists():
            raise Cancelled

    def save(self, not_within_s: float = 0.0) -> None:
        """Write its state, unless that was done a moment ago."""
        now = time.time()
        if self.folder is not None and now - self.updated_at >= not_within_s:
            self.updated_at = now
            state = {name: value for name, value in asdict(self).items() if name != "folder"}
            replace(self.folder / f"{self.id}.json", json.dumps(state).encode())

    def to_json(self) -> dict[str, Any]:
        """What clients are shown: rate in texts a second, estimate in seconds."""
        rate = eta = None
        if self.started_at is not None and self.done:
            end = self.ended_at or time.time()
            rate = round(self.done / max(end - self.started_at, 1e-3), 2)
            eta = round((self.total - self.done) / rate, 1) if self.status == "running" else None
        return {
            "id": self.id,
            "object": "steering.job",
            "type": "extract",
            "status": self.status,
            "phase": self.phase,
            "method": self.method,
            "name": self.name,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "progress": {"done": self.done, "total": self.total, "rate": rate, "eta_s": eta},
            "bad_rows": self.bad_rows,
            "vectors": self.result,
            "error": self.error,
        }


class Jobs:
    """All jobs of a library, of which this API server runs one at a time."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def submit(
        self, method: str, name: str, work: Callable[[Job], Coroutine[Any, Any, None]]
    ) -> Job:
        """Run `work` when it is its turn. Raises `TooManyJobs`."""
        if len(self._tasks) >= self.most:
            raise TooManyJobs(
                f"{len(self._tasks)} jobs run or wait, as many as may; try again later, or cancel "
                "one with DELETE /v1/steering/jobs/{id}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        job = Job(f"job-{secrets.token_hex(8)}", method, name, folder=self.folder)
        job.save()
        task = asyncio.create_task(self._run(job, work))
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return job

    def find(self, job_id: str) -> Job:
        """Raises `VectorNotFound`."""
        known = job_id.removeprefix("job-")
        path = self.folder / f"{job_id}.json"
        if not job_id.startswith("job-") or not known.isalnum() or not path.is_file():
            raise VectorNotFound(f"no job {shown(job_id)}", param="job_id", code="job_not_found")
        return self._read(path)

    def list(self) -> list[Job]:
        """All, newest first."""
        found = [self._read(path) for path in self.folder.glob("job-*.json")]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended; one that has is left as it is. Raises
        `VectorNotFound`."""
        job = self.find(job_id)
        if job.status not in ENDED:
            (self.folder / f"{job_id}.cancel").touch()
            if job_id in self._tasks:
                self._tasks[job_id].cancel()
            job.status = "cancelling"
        return job

    def _read(self, path: Path) -> Job:
        job = Job(**json.loads(path.read_text()))
        alive = job.id in self._tasks or time.time() - job.updated_at < LOST_AFTER_S
        if job.status not in ENDED and not alive:
            job.status = "failed"
            job.error = {"message": "the server that ran it was stopped", "code": "job_lost"}
        return job

    async def _run(self, job: Job, work: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        beat = asyncio.create_task(_beat(job))
        try:
            async with self._turn:
                job.check()
                job.status, job.started_at = "running", time.time()
                job.save()
                await work(job)
            job.status = "succeeded"
        except (Cancelled, asyncio.CancelledError):
            job.status = "cancelled"
        except Exception as error:
            job.status = "failed"
            job.error = envelope(error)["error"]
            job.error["message"] = _writable(job.error["message"])
            if not isinstance(error, SteersmanError | ValueError):
                logger.exception("Job %s failed", job.id)
        finally:
            beat.cancel()
            job.ended_at, job.phase = time.time(), "over"
            job.save()
            (self.folder / f"{job.id}.cancel").unlink(missing_ok=True)
            self._forget_old()

    def _forget_old(self) -> None:
        ended = [job for job in self.list() if job.status in ENDED]
        for job in ended[KEPT:]:
            (self.folder / f"{job.id}.json").unlink(missing_ok=True)


def _writable(message: str) -> str:
    return message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()


async def _beat(job: Job) -> None:
    """Say now and then that the job is alive."""
    while True:
        await asyncio.sleep(LOST_AFTER_S / 4)
        job.save()
