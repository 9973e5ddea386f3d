"""What an extraction takes from those who are served, and what it gets.

    python -m bench.serving.extract_share [--server URL] [--pairs 200] [--streams 8] [--rounds 3]

Starts a server of the demo model, or uses the one at URL. In each round, turn and turn about: the
streams alone, an extraction alone, and both together, the streams going on until the extraction
has ended. Of the streams, the 95th percentiles of the time to the first token, of the time per
output token (a request's mean) and of single gaps between tokens, in milliseconds; and their ratio,
with the extraction to without. Of the extraction, its seconds beside streams to alone. Prints one
JSON object last, and writes it to bench/results/extract_share.json.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.report import publish, say
from bench.servers import demo_model, running, steersman
from bench.serving.extract import extraction, texts

ALONE_SECONDS = 30.0
_NUMBERS = itertools.count()


@dataclass
class Times:
    """Seconds that clients saw, a number a request; `gaps` one a token."""

    first: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def p95(self) -> dict[str, float]:
        """95th percentiles in milliseconds."""
        return {
            name: round(1000 * statistics.quantiles(values, n=20)[-1], 1)
            for name, values in (("first", self.first), ("token", self.token), ("gap", self.gaps))
        }


async def stream(http: httpx.AsyncClient, times: Times, tokens: int) -> None:
    """One streamed completion of a prompt that nobody sent before."""
    body = {
        "model": "smollm2",
        "prompt": f"Story number {next(_NUMBERS)} of {time.monotonic_ns()}: ",
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    came: list[float] = []
    began = time.perf_counter()
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                came.append(time.perf_counter())
    times.first.append(came[0] - began)
    times.token.append((came[-1] - came[0]) / (tokens - 1))
    times.gaps += [after - before for before, after in itertools.pairwise(came)]


async def streams_while(
    http: httpx.AsyncClient, count: int, tokens: int, work: Callable[[], Awaitable[Any]]
) -> tuple[Times, Any]:
    """`count` clients, each with one stream after another until `work` has ended. The first second
    of each, while they fall out of step, does not count."""
    times, ended = Times(), asyncio.Event()

    async def client(number: int) -> None:
        await asyncio.sleep(number * 0.3)
        await stream(http, Times(), tokens)
        while not ended.is_set():
            await stream(http, times, tokens)

    async with asyncio.TaskGroup() as group:
        for n in range(count):
            group.create_task(client(n))
        await asyncio.sleep(count * 0.3 + 2)
        found = await work()
        ended.set()
    return times, found


async def measure(url: str, pairs: int, streams: int, rounds: int, tokens: int) -> dict[str, Any]:
    wanted = texts()[:pairs]
    found: list[dict[str, Any]] = []
    async with httpx.AsyncClient(base_url=url, timeout=1200, trust_env=False) as http:
        await extraction(http, wanted[:10])
        for n in range(rounds):
            one: dict[str, Any] = {}
            order = ("without", "alone", "with") if n % 2 == 0 else ("with", "alone", "without")
            for turn in order:
                if turn == "alone":
                    one["alone_s"] = round((await extraction(http, wanted))["captured"], 2)
                elif turn == "without":
                    times, _ = await streams_while(
                        http, streams, tokens, lambda: asyncio.sleep(ALONE_SECONDS)
                    )
                    one["without"] = times.p95()
                else:
                    times, took = await streams_while(
                        http, streams, tokens, lambda: extraction(http, wanted)
                    )
                    one["with"] = times.p95()
                    one["beside_s"] = round(took["captured"], 2)
            say(f"round {n + 1}: {one}")
            found.append(one)
    return {
        "pairs": pairs,
        "streams": streams,
        "new_tokens": tokens,
        "rounds": found,
        "p95_ratio": {
            name: round(statistics.median(r["with"][name] / r["without"][name] for r in found), 2)
            for name in ("first", "token", "gap")
        },
        "beside_to_alone": round(statistics.median(r["beside_s"] / r["alone_s"] for r in found), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default=None, metavar="URL")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    args = parser.parse_args()
    numbers = (args.pairs, args.streams, args.rounds, args.tokens)
    if args.server is not None:
        publish("extract_share", asyncio.run(measure(args.server, *numbers)))
        return
    options = "--served-model-name smollm2 --max-model-len 1024 --kv-cache-memory-bytes 536870912"
    with tempfile.TemporaryDirectory(prefix="extract-") as folder:
        command = steersman(demo_model(), [*options.split(), "--library", f"{folder}/library"])
        with running("steersman", command, {}, Path(folder) / "log") as server:
            found = asyncio.run(measure(server.url, *numbers))
    publish("extract_share", found)


if __name__ == "__main__":
    main()
