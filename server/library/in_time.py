"""Looking things up in the library, whose disk may hang: it delays those who need it alone."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from steersman.server.errors import LibrarySlow

Found = TypeVar("Found")

BUSY: Final = 16
"""Most threads that look things up at once: each takes turns with the event loop at the
interpreter's lock."""
HANGING: Final = 512
"""Most threads that wait for a disk beside them: they take no turns."""
PATIENCE_S: Final = 0.1
"""Who has looked for so long waits for a disk. A look-up takes milliseconds."""

_THREADS: Final = ThreadPoolExecutor(BUSY + HANGING, "steersman-resolve")
"""They look up vectors. Their own: a library that hangs takes none that others need."""
_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]" = WeakKeyDictionary()


async def in_time(seconds: float, look: Callable[..., Found], *args: Any) -> Found:
    """`look(*args)`, which reads the library, in a thread. At most `BUSY` look at once, and one
    that hangs gives its turn to the next. Raises `LibrarySlow` after `seconds`; the thread is lost
    until the disk answers."""
    loop = asyncio.get_running_loop()
    run = contextvars.copy_context().run
    turns = _turns.setdefault(loop, asyncio.Semaphore(BUSY))
    try:
        async with asyncio.timeout(seconds):
            async with turns:
                work = loop.run_in_executor(_THREADS, run, look, *args)
                try:
                    return await asyncio.wait_for(asyncio.shield(work), PATIENCE_S)
                except TimeoutError:
                    pass
                except asyncio.CancelledError:
                    work.cancel()
                    raise
            return await work
    except TimeoutError:
        raise LibrarySlow(
            f"the library did not return the request's vectors in {seconds:g} s (--load-timeout): "
            "its disk is slow or hangs; try again later"
        ) from None
