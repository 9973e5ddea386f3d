"""`GET /ready`: whether to send requests here. (vLLM's `GET /health`: whether to restart it.)"""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from vllm.v1.engine.exceptions import EngineDeadError

from server.errors import Draining
from server.metrics import METRICS
from vectors.errors import SteersmanError

LIBRARY_WITHIN_S: Final = 2.0
"""A network file system that has gone away answers nothing at all."""

router = APIRouter()


@router.get("/ready", responses={503: {"description": "Not now, and why"}})
async def ready(request: Request) -> JSONResponse:
    """200 if the engine is alive, its start-up check passed, the library can be read, and this
    server is not about to stop; else 503 with the reasons."""
    reasons = await reasons_against(request.app.state)
    METRICS.ready.set(not reasons)
    if not reasons:
        return JSONResponse({"status": "ready"})
    return JSONResponse(
        {"status": "not_ready", "reasons": reasons},
        status_code=503,
        headers={"Retry-After": str(Draining.retry_after)},
    )


async def reasons_against(state: Any) -> list[str]:
    """Why no request should come here now; none if they may. `state` is the app's."""
    steersman = getattr(state, "steersman", None)
    if steersman is None:
        # It is set when the workers have steered the probe through every layer.
        return ["the start-up check has not passed yet"]
    reasons = []
    try:
        await state.engine_client.check_health()
    except EngineDeadError:
        reasons.append("the engine is dead")
    if trouble := await _trouble_with(state):
        reasons.append(trouble)
    # Last: it may have begun while the disk was looked at.
    if steersman.drain.draining:
        reasons.append("draining")
    return reasons


async def _trouble_with(state: Any) -> str | None:
    """What is wrong with the library. One look at a time: a thread that hangs cannot be ended, and
    every probe would leave another behind."""
    looking: asyncio.Task[int] | None = getattr(state, "looking_at_library", None)
    if looking is None:
        count = state.steersman.whole_library.count
        looking = state.looking_at_library = asyncio.ensure_future(run_in_threadpool(count))
    done, _ = await asyncio.wait({looking}, timeout=LIBRARY_WITHIN_S)
    if not done:
        return f"the library's disk has not answered for {LIBRARY_WITHIN_S:g} s"
    if state.looking_at_library is looking:
        state.looking_at_library = None
    try:
        # Other servers on the same directory change it, too.
        METRICS.library.set(looking.result())
    except SteersmanError as error:
        return error.message
    return None
