"""A few threads that read vectors, so that no step waits for a disk."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.vectors.tensors import HookPoint

THREADS: Final = 16
"""Reads that may hang before no other begins. A thread cannot be taken out of one."""

ReadVector = Callable[[str], Mapping[HookPoint, Tensor]]
"""digest -> {(site, layer): [hidden] or [steps, hidden] f32}; or `VectorUnavailable`."""


class Read(NamedTuple):
    """A read that is over."""

    found: Mapping[HookPoint, Tensor] | VectorUnavailable
    seconds: float


class Reads:
    """Vectors that are read, by digest. One read of a vector is under way at a time.

    The threads are daemons: one whose read hangs does not keep the process from ending.
    """

    def __init__(self, read: ReadVector, threads: int = THREADS) -> None:
        self._read = read
        self._most = threads
        self._changed = threading.Condition()
        self._queue = OrderedDict[str, None]()
        self._running = set[str]()
        self._over: dict[str, Read] = {}
        self._threads = self._free = 0

    def begin(self, digest: str) -> None:
        """Read a vector; where a read of it is under way, that one is it."""
        with self._changed:
            self._over.pop(digest, None)  # Of an earlier time: nobody has taken it.
            if digest in self._running or digest in self._queue:
                return
            self._queue[digest] = None
            if self._free < len(self._queue) and self._threads < self._most:
                self._threads += 1
                name = f"steersman-read-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._changed.notify_all()

    def forget(self, digest: str) -> None:
        """Do not read the vector, unless its read has begun."""
        with self._changed:
            self._queue.pop(digest, None)

    def take(self) -> dict[str, Read]:
        """The reads that are over, once."""
        with self._changed:
            over, self._over = self._over, {}
            return over

    def wait(self, seconds: float) -> None:
        """Return when a read is over, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._free += 1
                self._changed.wait_for(lambda: self._queue)
                self._free -= 1
                digest, _ = self._queue.popitem(last=False)
                self._running.add(digest)
            began = time.perf_counter()
            found: Mapping[HookPoint, Tensor] | VectorUnavailable
            try:
                found = self._read(digest)
            except VectorUnavailable as error:
                found = error
            with self._changed:
                self._running.remove(digest)
                self._over[digest] = Read(found, time.perf_counter() - began)
                self._changed.notify_all()
