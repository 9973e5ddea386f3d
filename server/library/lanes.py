"""Lanes: a few threads for each kind of work, so that one kind cannot stop another.

Steered requests have threads of their own (`server/chat/steered_request.py`). Calls that upload,
list or inspect, however many there are, wait only for calls of the same kind. Each lane has few
threads, because every thread takes turns with the event loop at the interpreter's lock.
"""

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from steersman.server.auth.caller import caller
from steersman.server.errors import ServerBusy, TooManyRequests

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Threads for one kind of work, with a bounded queue.

    A caller (by the name of its key) may have at most half of the queue, so that one key leaves
    room for the others. Without a keys file all calls are of one caller, which may have the whole
    queue.
    """

    def __init__(self, kind: str, threads: int, waiting: int) -> None:
        """`kind` names the work in messages, in the plural."""
        self._kind = kind
        self._most = threads + waiting
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, f"steersman-{kind.replace(' ', '-')}")

    @property
    def held(self) -> int:
        """Number of calls that run or wait."""
        with self._lock:
            return sum(self._held.values())

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in this lane, in the context of the caller, and return its result.

        If it is cancelled before it has begun, it never runs. If later, this waits for its end,
        because it may use what the caller closes. Raises `ServerBusy` or `TooManyRequests` if too
        many calls wait.
        """
        who = caller().permissions.name
        self._take(who)
        context = contextvars.copy_context()

        def task() -> T:
            return context.run(work, *args, **kwargs)

        try:
            future: Future[T] = self._pool.submit(task)
        except BaseException:
            self._give(who)
            raise
        future.add_done_callback(lambda _: self._give(who))
        waiter = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            if not future.cancel():
                await asyncio.wait([waiter])
                _look_at(waiter)
            raise

    def _take(self, who: str) -> None:
        with self._lock:
            if sum(self._held.values()) >= self._most:
                raise ServerBusy(
                    f"{self._most} {self._kind} run or wait on this server, the most that it "
                    "takes; try again in a moment"
                )
            if who and self._held[who] >= max(1, self._most // 2):
                raise TooManyRequests(
                    f"{self._held[who]} {self._kind} of this key run or wait, the most that it "
                    "may have; try again in a moment",
                    code="too_many_concurrent_requests",
                )
            self._held[who] += 1

    def _give(self, who: str) -> None:
        with self._lock:
            self._held[who] -= 1
            if self._held[who] <= 0:
                del self._held[who]


def _look_at(waiter: "asyncio.Future[Any]") -> None:
    """Read the error of a finished future, so that asyncio does not log it as never retrieved."""
    if waiter.done() and not waiter.cancelled():
        waiter.exception()


CHANGES: Final = Lane("changes of vectors", threads=2, waiting=62)
"""Uploads are parsed and hashed here, and wait here for the library's lock and disk."""
READS: Final = Lane("reads of the library", threads=2, waiting=254)
"""Lists, vectors, jobs: what reads the disk, and makes answers that may be long."""
INSPECTIONS: Final = Lane("inspections", threads=1, waiting=15)
"""Each reads up to a thousand vectors."""
TEXTS: Final = Lane("requests for extractions", threads=1, waiting=15)
"""Each may have a body of many megabytes to be parsed."""
