"""How long other threads stand still while this one works: what an event loop would see."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BEAT_SECONDS = 0.002


@contextmanager
def longest_pause() -> Iterator[Callable[[], float]]:
    """Runs a thread that does next to nothing. What is yielded returns, after the block, the most
    seconds that passed between two of its beats; the block's own end counts as one."""
    longest, ended = 0.0, threading.Event()

    def beat() -> None:
        nonlocal longest
        last = time.monotonic()
        while not ended.is_set():
            time.sleep(BEAT_SECONDS)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        yield lambda: longest
    finally:
        ended.set()
        heart.join()
