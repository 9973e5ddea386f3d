"""Starts that fail, and starts that are broken off."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.servers import free_port

pytestmark = pytest.mark.engine
LIMIT_S = 300


class Start:
    """`steersman serve` on the demo model, whose output is read when it has ended."""

    def __init__(self, folder: Path, model: Path, *options: str) -> None:
        self.log = folder / "log"
        command = [sys.executable, "-m", "steersman.client.cli", "serve", str(model), *options]
        command += ["--port", str(free_port()), "--library", str(folder / "library")]
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "STEERSMAN_HOME": str(folder), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def wait_for(self, title: str) -> psutil.Process:
        """The first process of this server with such a title."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                try:
                    if " ".join(process.cmdline()[:1]).startswith(title):
                        return process
                except psutil.Error:
                    continue
            time.sleep(0.1)
        raise AssertionError(f"no {title}:\n{self.log.read_text()}")

    def left(self) -> list[int]:
        """Processes of this server's session that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != "zombie":
                    found.append(process.pid)
            except (OSError, psutil.Error):
                continue
        return found

    def check_gone(self) -> None:
        """Nothing is left. The resource tracker frees the shared memory of the others, then goes,
        so it may be there for a moment."""
        deadline = time.monotonic() + 60
        while left := self.left():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[list[Start]]:
    """Starts that are killed at the end, whatever they have done."""
    made: list[Start] = []
    yield made
    for start in made:
        for pid in start.left():
            os.kill(pid, signal.SIGKILL)
        start.process.wait()


def test_sigterm_ends_a_start_at_once(model: Path, tmp_path: Path, starts: list[Start]) -> None:
    start = Start(tmp_path, model)
    starts.append(start)
    start.wait_for("VLLM::EngineCore")
    start.process.send_signal(signal.SIGTERM)
    assert start.process.wait(LIMIT_S) == 143
    start.check_gone()
    text = start.log.read_text()
    assert text.splitlines()[-1] == (
        "steersman serve: stopped by SIGTERM before the server was ready"
    )
    assert "Traceback" not in text


@pytest.mark.parametrize("why", ["cache", "worker"])
def test_a_start_that_fails_says_why_in_a_line(
    model: Path, tmp_path: Path, starts: list[Start], why: str
) -> None:
    options = ["--kv-cache-memory-bytes", "100000"] if why == "cache" else []
    start = Start(tmp_path, model, *options)
    starts.append(start)
    if why == "worker":
        start.wait_for("VLLM::Worker").kill()
    assert start.process.wait(LIMIT_S) == 1
    text = start.log.read_text()
    last = text.splitlines()[-1]
    assert last.startswith("steersman serve: ")
    assert "Traceback" not in text
    assert len(text.splitlines()) < 15
    assert "Engine core initialization failed" not in last
    if why == "cache":
        assert "--kv-cache-memory-bytes" in last
        assert "--max-model-len" in last
    (kept,) = (tmp_path / "logs").iterdir()
    assert str(kept) in last
    assert "Traceback" in kept.read_text()
    start.check_gone()
