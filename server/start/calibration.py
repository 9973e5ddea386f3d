"""Median residual norms of the served model: measured once through the engine, then cached."""

import asyncio
import fcntl
import json
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from steersman.steering.plan import STEERABLE_SITES
from steersman.steering.plan.settings import default_home
from steersman.vectors.library import disk

logger = logging.getLogger("vllm.steersman")

TEXTS = (
    "The river rises in the hills to the north and reaches the sea after two hundred kilometres. "
    "Barges carried timber and grain along it until the railway came.",
    "Add the flour in three parts, stirring slowly, and let the dough rest for an hour under a "
    "damp cloth before you divide it into eight equal pieces.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)",
    "Could you tell me when the next train to the airport leaves, and whether I have to change? "
    "I would like to be there an hour before my flight.",
    "In the first quarter, sales grew by four percent, while costs fell slightly. The board "
    "expects the trend to continue through the summer.",
    "She put the letter back into its envelope, looked out of the window for a long while, and "
    "decided that she would answer it tomorrow.",
    "A triangle with sides of three, four and five has a right angle, because nine and sixteen "
    "make twenty-five.",
    "User: My screen stays black after the update. Assistant: Please hold the power button for ten "
    "seconds, wait, and then start the device again.",
)
"""The fixed texts of the calibration, written for it: prose, recipes, code, dialogue."""


async def median_norms(
    engine: Any, mark: str, places: int, *, measure: bool
) -> dict[str, float] | None:
    """Median norm (L2) of the value at each "<site>.<layer>", without the first token of each text.

    Read from the cache if these weights (`mark`) were measured before; else measured on the engine
    if `measure`. None if not all `places` were measured.
    """
    cache = default_home() / "calibration" / f"{mark}.json"
    known = _read(cache, places)
    if known or not measure:
        return known
    async with _alone(cache.with_suffix(".lock")):
        # Another API server of this engine may have measured while this one waited.
        known = _read(cache, places)
        if known:
            return known
        logger.info("Measuring the model's residual norms (once a model; cached in %s)", cache)
        medians = await _listen(engine)
        if len(medians) != places:
            logger.warning(
                "Norms were measured at %d of %d hook points: relative doses are not known",
                len(medians),
                places,
            )
            return None
        if not _usable(medians):
            logger.warning(
                "The residual stream of this model has no finite length: doses are not known"
            )
            return None
        _save(cache, {"median_norms": medians, "texts": len(TEXTS)})
        return medians


def _read(cache: Path, places: int) -> dict[str, float] | None:
    try:
        known: dict[str, float] = json.loads(cache.read_text())["median_norms"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        logger.warning("%s cannot be used (%s): the norms are measured again", cache, error)
        return None
    return known if len(known) == places and _usable(known) else None


def _usable(medians: Any) -> bool:
    """Whether doses can be computed from these norms: not if one is zero or not finite."""
    return isinstance(medians, dict) and all(
        isinstance(norm, int | float) and 0 < norm < math.inf for norm in medians.values()
    )


@asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[None]:
    """Hold `lock` against other processes: two that measure at the same time disturb each other."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        # Read-only, as filelock does not: the file may be that of another replica and user.
        descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError as error:
        logger.warning("%s cannot be locked (%s)", lock, error.strerror)
        yield
        return
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _listen(engine: Any) -> dict[str, float]:
    from vllm.sampling_params import SamplingParams

    tokenizer = engine.renderer.tokenizer
    await engine.collective_rpc("steering_start_norms")
    try:
        params = SamplingParams(max_tokens=1, temperature=0.0)

        async def run(n: int, text: str) -> None:
            prompt = {"prompt_token_ids": tokenizer.encode(text)}
            name = f"steersman-calibration-{n}"
            # All data parallel replicas listen, and vLLM returns what the first has heard.
            async for _ in engine.generate(prompt, params, name, data_parallel_rank=0):
                pass

        await asyncio.gather(*(run(n, text) for n, text in enumerate(TEXTS)))
    finally:
        heard = await engine.collective_rpc("steering_take_norms")
    medians: dict[str, float] = {}
    for worker in heard:
        medians.update(worker)
    return dict(sorted(medians.items(), key=lambda item: _by_place(item[0])))


def _by_place(name: str) -> tuple[int, int]:
    site, _, layer = name.partition(".")
    return STEERABLE_SITES.index(site), int(layer)


def _save(path: Path, data: dict[str, Any]) -> None:
    """Write the cache so that every replica can read it, whichever user it runs as. If the disk
    refuses, this logs a warning, and the next start measures again."""
    try:
        disk.replace(path, json.dumps(data, indent=1).encode(), mode=0o644)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): the next start measures the norms again",
            path,
            error.strerror,
        )
