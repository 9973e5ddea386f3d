"""SIGTERM: report not ready, finish what runs, then stop.

On SIGTERM vLLM calls `engine_client.shutdown(timeout)` in a thread of the API server. By itself
that stops parts which running requests need, still accepts new requests, which then fail with 500,
and leaves streams hanging when the time is over. So that call is made to wait for us first: nothing
new is accepted, and what runs has until the timeout. The engine aborts what then still runs, and
these answers end with `finish_reason: "abort"`.
"""

import asyncio
import logging
import threading
import time
from typing import Any, ClassVar, Final

from steersman.server.extraction.jobs import Jobs
from steersman.server.metrics import METRICS

TELL_EVERY_S: Final = 5.0
LAST_WORDS_S: Final = 2.0
"""For aborted requests to end their answers; with a shorter timeout, an eighth of it."""
ENGINE_STOPS_S: Final = 10.0
"""For the engine's processes to end by themselves, once nothing is left to compute."""
logger = logging.getLogger("vllm.steersman")


class Drain:
    """Counts what runs, and knows whether anything new may begin."""

    engine_died: ClassVar[bool] = False
    """Whether this process stops because its engine did; vLLM itself exits with 0 then."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[asyncio.Task[Any]] = set()
        self._jobs: Jobs | None = None

    @property
    def running(self) -> int:
        """Number of requests whose answers have not ended, and of jobs."""
        return len(self._running) + (self._jobs.unfinished if self._jobs else 0)

    def watch(self, engine_client: Any, jobs: Jobs, state: Any) -> None:
        """Make `engine_client.shutdown` wait for what runs. `state`: the app's state."""
        self._jobs = jobs
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        stop = engine_client.shutdown

        def shutdown(timeout: float | None = None) -> None:
            if not self.draining and engine_client.errored:
                Drain.engine_died = True
            # Only SIGTERM has it called in another thread than the loop's. In that one the server
            # is down already, or its engine is dead, and the loop would wait for itself.
            first = not self.draining and threading.get_ident() != thread
            self.begin()
            if not timeout or not first:
                stop(timeout=timeout)
                return
            ends = time.monotonic() + timeout
            last_words = min(LAST_WORDS_S, timeout / 8)
            try:
                finishing = self._finish(engine_client, ends - 2 * last_words, last_words)
                asyncio.run_coroutine_threadsafe(finishing, loop).result(timeout)
            except Exception:
                logger.exception("draining failed; the engine is stopped")
            stop(timeout=max(ENGINE_STOPS_S, ends - time.monotonic()))
            loop.call_soon_threadsafe(loop.call_later, LAST_WORDS_S, _leave, state)

        engine_client.shutdown = shutdown

    def begin(self) -> None:
        """Accept nothing new from now on."""
        self.draining = True
        METRICS.ready.set(0)
        METRICS.draining.set(1)

    def enter(self, task: asyncio.Task[Any]) -> None:
        """Count `task`, which answers a request."""
        self._running.add(task)

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Call when `task` has ended."""
        self._running.discard(task)

    async def _finish(self, engine_client: Any, ends: float, last_words: float) -> None:
        """Wait until nothing runs. At `ends` (monotonic clock, seconds) abort what still runs, and
        wait up to `last_words` seconds for its end; a little later the parent of several API
        servers kills them."""
        began_with = self.running
        logger.info("draining: %d requests and jobs run; nothing new is taken", began_with)
        told_at = time.monotonic()
        while self.running and time.monotonic() < ends:
            await asyncio.sleep(0.05)
            if time.monotonic() - told_at >= TELL_EVERY_S:
                told_at = time.monotonic()
                left = max(0.0, ends - told_at)
                logger.info("draining: %d left, for %.0f s at most", self.running, left)
        cut_off = self.running
        # Every one that ran at SIGTERM has ended or is cut off: nothing new has come in.
        logger.log(
            logging.WARNING if cut_off else logging.INFO,
            "stopped: %d requests and jobs finished, %d cut off by --shutdown-timeout",
            began_with - cut_off,
            cut_off,
        )
        if not cut_off:
            return
        if self._jobs is not None:
            self._jobs.stop()
        try:
            aborting = engine_client.pause_generation(mode="abort", clear_cache=False)
            await asyncio.wait_for(aborting, last_words / 2)
            await asyncio.sleep(last_words / 2)
        finally:
            for task in list(self._running):
                task.cancel()


def _leave(state: Any) -> None:
    """Make uvicorn stop waiting: a client that reads nothing would keep its connection open for
    ever."""
    server = getattr(state, "server", None)
    if server is not None:
        server.force_exit = True
