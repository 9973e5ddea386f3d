"""SIGTERM and Ctrl-C during the start end the server at once; so does a worker that dies.

During its start vLLM turns a signal into a KeyboardInterrupt, which code on the way may swallow,
and then waits for processes that may be gone. No request has been answered yet, so all processes
can be killed.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import psutil

from steersman.client.launch.run import Run

GRACE_S: Final = 20.0
"""For vLLM to see by itself that one of its processes has died."""
LOOK_EVERY_S: Final = 1.0
_TITLE: Final = "VLLM::"


def end_at_once(run: Run) -> None:
    """From now until the server is ready, SIGTERM exits with 143 and SIGINT with 130."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ending(run, signal.getsignal(number)))


def _ending(run: Run, otherwise: Any) -> Callable[[int, FrameType | None], None]:
    def handler(number: int, frame: FrameType | None) -> None:
        # With several API servers this process keeps its handler after the start.
        if run.ready and callable(otherwise):
            otherwise(number, frame)
            return
        name = signal.Signals(number).name
        leave(run, 128 + number, f"stopped by {name} before the server was ready")

    return handler


def leave(run: Run, status: int, why: str) -> None:
    """Kill every process of this server, print `why`, and exit with `status`."""
    kill_descendants()
    print(f"steersman serve: {why}", file=sys.stderr, flush=True)
    run.remove()
    os._exit(status)


def kill_descendants() -> None:
    """Kill all processes that this one has started, and their children. The resource tracker is
    left: it frees the shared memory of the others, and then ends by itself."""
    for _ in range(3):
        left = [p for p in _descendants() if not _is_tracker(p)]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        if not left:
            return


def watch_start(run: Run, failed: Callable[[str], None]) -> None:
    """Call `failed` with a sentence, in another thread, if a process of vLLM's dies before the
    server is ready and vLLM has not noticed it after `GRACE_S` seconds."""
    threading.Thread(target=_watch, args=(run, failed), name="steersman-start", daemon=True).start()


def _watch(run: Run, failed: Callable[[str], None]) -> None:
    seen: dict[int, tuple[psutil.Process, str]] = {}
    died: dict[int, float] = {}
    while not run.ready and run.folder.exists():
        for process in _descendants():
            title = _title(process)
            if title.startswith(_TITLE):
                seen.setdefault(process.pid, (process, title))
        for pid, (process, title) in seen.items():
            if _lives(process):
                continue
            since = died.setdefault(pid, time.monotonic())
            if time.monotonic() - since > GRACE_S:
                name = title.removeprefix(_TITLE)
                failed(f"the process {name} (pid {pid}) died during the start")
                return
        time.sleep(LOOK_EVERY_S)


def _descendants() -> list[psutil.Process]:
    try:
        return list(psutil.Process().children(recursive=True))
    except psutil.Error:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
