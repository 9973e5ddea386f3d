"""A server that can be stopped as Kubernetes stops it, and started again on its port."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from bench.servers import free_port, spawn

STARTUP_S = 600.0
AFTER_TIMEOUT_S = 60.0
"""How much longer than --shutdown-timeout a stop may take before the process is killed."""


class Replica:
    """`command` on a port of its own. Its log goes on over restarts."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [*command, "--host", "127.0.0.1", "--port", str(self.port)]
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._process = spawn(self._command, self._environment, self._log)

    def wait_ready(self) -> float:
        """Seconds until /ready says so. Raises RuntimeError if the process ends instead."""
        began = time.monotonic()
        while time.monotonic() - began < STARTUP_S and self._running.poll() is None:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).is_success:
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{self.name} did not become ready; the end of its log:\n{tail}")

    def terminate(self, timeout: float) -> tuple[int, float]:
        """SIGTERM to the main process alone; its exit code, and the seconds that it took."""
        began = time.monotonic()
        self._running.send_signal(signal.SIGTERM)
        code = self._running.wait(timeout=timeout + AFTER_TIMEOUT_S)
        return code, time.monotonic() - began

    def kill(self) -> None:
        """All that is left of it, by process id."""
        if self._process is None or self._process.poll() is not None:
            return
        family = [*psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for child in psutil.wait_procs(family, timeout=5)[1]:
            child.kill()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process
