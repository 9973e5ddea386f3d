"""Whether the event loop turns: all requests of an API server share it, and whoever holds it holds
all of them."""

import asyncio
from typing import Final

from steersman.server.metrics import METRICS

EVERY_S: Final = 0.025


async def beat() -> None:
    """Measure for ever how much later than it should this task runs."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        METRICS.loop_lag.observe(max(0.0, loop.time() - due))
