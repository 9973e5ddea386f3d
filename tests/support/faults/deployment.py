"""A server that can be killed and started again: same command, same port, same library."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.servers import free_port, spawn, steersman
from tests.support.http.client import Client

OPTIONS = shlex.split(
    "--served-model-name smollm2 --max-model-len 1024 --block-size 32 --bank-rows 16 "
    "--kv-cache-memory-bytes 268435456 --max-upload-bytes 20000000 --body-timeout 5"
)
START_S = 600
VECTORS = "/v1/steering/vectors"


@dataclass
class Deployment:
    """What an operator runs. `up` starts it if it does not run; a test that killed it need not
    clean up after itself."""

    model: Path
    folder: Path
    library: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    key: str | None = None
    """What its `client` sends."""
    port: int = field(default_factory=free_port)
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Of the latest start."""
        return self._log_path.read_text(errors="replace")

    @property
    def _log_path(self) -> Path:
        return self.folder / f"log{self.starts}"

    def up(self) -> None:
        """Have it run, and be ready."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.starts += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        command = steersman(str(self.model), [*OPTIONS, *self.options])
        where = ["--library", str(self.library), "--host", "127.0.0.1", "--port", str(self.port)]
        own = {
            "STEERSMAN_HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "0",
        }
        self.process = spawn([*command, *where], {**own, **self.environment}, self._log_path)
        until(self._answers, START_S, self._tail)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._tail()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        return False

    def _tail(self) -> str:
        return "\n".join(self.log.splitlines()[-40:])

    def processes(self) -> list[psutil.Process]:
        """All of its processes, the API server first."""
        assert self.process is not None
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]

    def core(self) -> psutil.Process:
        """The engine core's process."""
        (core,) = [p for p in self.processes() if p.name().startswith("VLLM::EngineCor")]
        return core

    def kill(self) -> int:
        """kill -9 of the process that listens, and of no other; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait(60)

    def stop(self) -> None:
        """End it however it is, and every process of its session."""
        if self.process is None:
            return
        left = [p for p in psutil.process_iter() if _session(p.pid) == self.process.pid]
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)
        self.process = None

    @contextlib.contextmanager
    def client(self, timeout: float = 120, key: str | None = None) -> Iterator[Client]:
        """One connection pool, for as long as the server lives."""
        key = key or self.key
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        with httpx.Client(
            base_url=self.url, timeout=timeout, headers=headers, trust_env=False
        ) as http:
            yield Client(http)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that nobody has buried does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def shared_memory(process: psutil.Process) -> list[Path]:
    """The files in /dev/shm that it has in its memory."""
    found = (Path(mapped.path) for mapped in process.memory_maps())
    return [path for path in found if path.parent == Path("/dev/shm") and path.exists()]


def until(
    true: Callable[[], Any],
    seconds: float,
    said: Callable[[], object] | str = "",
    every: float = 0.3,
) -> Any:
    """What `true` gives when that is something; fails with `said` if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise AssertionError(said() if callable(said) else said or f"not in {seconds} s")
        time.sleep(every)
    return found
