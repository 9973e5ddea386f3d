"""`GET /ready`: whether to send requests here. (vLLM's `GET /health`: whether to restart it.)

And the lag of the event loop: all requests of an API server share it, so code that blocks it blocks
all of them.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse
from vllm.v1.engine.exceptions import EngineDeadError

from steersman.server.errors import Draining
from steersman.server.metrics import METRICS
from steersman.vectors.errors import SteersmanError
from steersman.vectors.library import disk
from steersman.vectors.library.library import Library

LIBRARY_WITHIN_S: Final = 2.0
"""A network file system that has gone away answers nothing at all."""
LAG_EVERY_S: Final = 0.025
_LOOKING: Final = ThreadPoolExecutor(1, "steersman-ready")
"""A thread of its own: whatever the others do, this looks at the disk when it is asked to."""

router = APIRouter()


@router.get("/ready", responses={503: {"description": "Not now, and why"}})
async def ready(request: Request) -> JSONResponse:
    """200 if the engine is alive, its start-up check passed, the library can be read, and this
    server is not about to stop; else 503 with the reasons. `degraded` lists what cannot be done on
    a server that still steers."""
    reasons, degraded = await look(request.app.state)
    METRICS.ready.set(not reasons)
    METRICS.library_writable.set(not (reasons or degraded))
    if not reasons:
        return JSONResponse({"status": "ready"} | ({"degraded": degraded} if degraded else {}))
    return JSONResponse(
        {"status": "not_ready", "reasons": reasons},
        status_code=503,
        headers={"Retry-After": str(Draining.retry_after)},
    )


async def reasons_against(state: Any) -> list[str]:
    """Why no request should be sent here now; None if requests may come. `state`: the app's
    state."""
    return (await look(state))[0]


async def look(state: Any) -> tuple[list[str], list[str]]:
    """Why no request should be sent here now, and what does not work for requests that may come."""
    steersman = getattr(state, "steersman", None)
    if steersman is None:
        # It is set when the workers have steered the probe through every layer.
        return ["the start-up check has not passed yet"], []
    reasons = []
    try:
        await state.engine_client.check_health()
    except EngineDeadError:
        reasons.append("the engine is dead")
    seen = await _library(state)
    if isinstance(seen, str):
        reasons.append(seen)
    # Last: it may have begun while the disk was looked at.
    if steersman.drain.draining:
        reasons.append("draining")
    degraded = [] if isinstance(seen, str) or seen.obstacle is None else [seen.obstacle]
    return reasons, degraded


class _Seen(NamedTuple):
    """The result of a check of the library."""

    names: int
    obstacle: str | None
    """Why it cannot be written."""


def _look_at(library: Library) -> _Seen:
    names = library.count()
    with disk.disk_errors():
        return _Seen(names, _obstacle(library.root))


def _obstacle(root: Path) -> str | None:
    for directory in (root, root / "names", root / "objects"):
        if found := disk.obstacle(directory):
            return found
    return None


async def _library(state: Any) -> _Seen | str:
    """The result of a check of the library, or what is wrong with it. One check at a time: a thread
    that hangs cannot be ended, and every probe would leave another one behind."""
    looking: asyncio.Future[_Seen] | None = getattr(state, "looking_at_library", None)
    if looking is None:
        loop = asyncio.get_running_loop()
        looking = loop.run_in_executor(_LOOKING, _look_at, state.steersman.whole_library)
        state.looking_at_library = looking
    done, _ = await asyncio.wait({looking}, timeout=LIBRARY_WITHIN_S)
    if not done:
        return f"the library's disk has not answered for {LIBRARY_WITHIN_S:g} s"
    if state.looking_at_library is looking:
        state.looking_at_library = None
    try:
        # Other servers on the same directory change it, too.
        METRICS.library.set(looking.result().names)
        return looking.result()
    except SteersmanError as error:
        return error.message


async def observe_loop_lag() -> None:
    """Record how much later than planned this task runs, forty times a second, without end."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        METRICS.loop_lag.observe(max(0.0, loop.time() - due))
