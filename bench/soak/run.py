"""Half an hour of everything at once against one server, each answer and receipt checked.

Clients ask for chats, completions and responses, steered and not, whole and streamed, some with
two answers, some at temperature 1; streams are broken off at random; meanwhile vectors are
uploaded, swapped and deleted. Every answer at temperature 0 must equal its golden answer
(bench/soak/asks.py), every receipt must say what was asked and count what was computed, no status
may be an error but the 400 for a vector that was deleted; and when all is quiet, memory, files and
rows must be as they were after the first minutes. (On CPUs oneDNN keeps compiled code for the last
1024 shapes of matrices it met, so that any vLLM grows for some thousand requests:
bench/engine/memory.py. Here it may keep fewer, or a leak could hide behind that.)

    python -m bench.soak.run [--minutes 30] [--clients 64]

Prints one JSON object last and writes it to bench/results/soak.json; any violation: exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.report import publish, say
from bench.servers import Server, demo_model, running, steersman
from bench.soak.asks import Golden, Question, content_questions, fixed_questions, golden_answer
from bench.soak.clients import Client, Tally
from bench.soak.shelf import CONTENTS, Shelf
from bench.soak.state import State, compare, quiet_state

OPTIONS = (
    "--served-model-name smollm2 --max-model-len 512 --block-size 32 --max-num-seqs 64 "
    "--bank-rows 24 --kv-cache-memory-bytes 268435456 --disable-uvicorn-access-log"
)
"""A bank for 12 of the vectors at a time: rows are evicted and waited for all along."""
EVERY_S = 10.0
WARM_UP = 0.1
"""Of the time, at most two minutes."""
MOST_VIOLATIONS = 200


async def soak(server: Server, minutes: float, clients: int, seed: int) -> dict[str, Any]:
    """Everything but starting and stopping the server."""
    draw = random.Random(seed)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as hand:
        shelf = Shelf(hand, draw)
        await shelf.fill()
        say("taking golden answers, one at a time")
        golden: dict[Question, Golden | None] = {}
        for question in fixed_questions() + content_questions(CONTENTS):
            golden[question] = await golden_answer(hand, question)
        left_out = sum(answer is None for answer in golden.values())
        say(f"{len(golden) - left_out} golden answers; {left_out} left out: another text was near")
        tally = Tally()
        states: list[State] = []
        warm_up = min(120.0, 60 * minutes * WARM_UP)
        # The first stretch warms up; what it leaves is what the end is compared with.
        for name, seconds in (("warm-up", warm_up), ("soak", 60 * minutes - warm_up)):
            # Clients of the stretch's own: their connections end with it, and are not files after.
            async with httpx.AsyncClient(
                base_url=server.url, timeout=300, trust_env=False, limits=limits
            ) as http:
                crowd = [
                    Client(http, shelf, golden, tally, random.Random(draw.random()))
                    for _ in range(clients)
                ]
                await _stretch(name, crowd, shelf, tally, seconds)
            states.append(await quiet_state(server, hand))
            say(f"quiet after {name}: {states[-1].in_words()}")
        trouble = compare(*states)
        return {
            "golden_answers": len(golden) - left_out,
            "golden_left_out": left_out,
            "requests": dict(tally.done),
            "statuses": dict(tally.statuses),
            "answers_compared": tally.compared,
            "receipts_checked": tally.receipts,
            "tokens": tally.tokens,
            "uploads": shelf.uploads,
            "deletions": shelf.deletions,
            "swaps": len(shelf.swaps) - 1,
            "after_warm_up": states[0].to_json(),
            "at_the_end": states[1].to_json(),
            "violations": [*tally.violations[:50], *trouble],
            "violation_count": len(tally.violations) + len(trouble),
        }


async def _stretch(
    name: str, crowd: list[Client], shelf: Shelf, tally: Tally, seconds: float
) -> None:
    stop = asyncio.Event()
    work = [asyncio.create_task(client.run(stop)) for client in crowd]
    work.append(asyncio.create_task(shelf.stir(0.5, stop)))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(tally.violations) < MOST_VIOLATIONS:
        await asyncio.sleep(min(EVERY_S, max(0.0, deadline - time.monotonic())))
        if crashed := next((t for t in work if t.done()), None):
            tally.violations.append(f"stopped: {crashed.exception()!r}")
            deadline = 0.0
        say(
            f"{name}: {sum(tally.done.values())} requests, {tally.tokens} tokens, "
            f"{tally.compared} compared, {tally.receipts} receipts, {dict(tally.statuses)}, "
            f"{shelf.uploads} uploads, {len(shelf.swaps) - 1} swaps, {shelf.deletions} deletions, "
            f"{len(tally.violations)} violations"
        )
        if tally.violations:
            say(f"the latest: {tally.violations[-1]}")
    stop.set()
    await asyncio.gather(*work, return_exceptions=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--model", help="directory of the demo model (default: prepared if need be)"
    )
    parser.add_argument("--options", default="", help="more options for the server")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        model = options.model or demo_model()
        command = steersman(
            model,
            [*shlex.split(f"{OPTIONS} {options.options}"), "--library", str(folder / "library")],
            module="bench.soak.server",
        )
        # One of the development routes tells what the workers hold.
        environment = {
            "STEERSMAN_HOME": str(folder),
            "VLLM_SERVER_DEV_MODE": "1",
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
        }
        say("starting the server")
        server = stack.enter_context(running("soak", command, environment, folder / "log"))
        found = asyncio.run(soak(server, options.minutes, options.clients, options.seed))
    settings = {
        "minutes": options.minutes,
        "clients": options.clients,
        "seed": options.seed,
        "server_options": f"{OPTIONS} {options.options}".strip(),
    }
    publish("soak", {**settings, **found})
    return 1 if found["violation_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
