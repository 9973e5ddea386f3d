"""What it costs that requests are steered differently: tokens per second against how many distinct
ways of steering share a batch.

One server with Steersman. In every round the same batch of requests is sent once for each count:
with 0 nobody is steered, with n the requests take turns among n ways of steering. Each way has
vectors, layers and coefficients of its own, as many as any other, so that counts differ by
distinctness alone. The order turns round each time so that a slow drift of the machine cancels.
Reported are the medians over rounds and their spread, and each count's tokens per second divided by
those of count 0 in the same round.

    python -m bench.distinct [--rounds 9] [--tokens 64] [--model DIR_OR_ID]

Prints one JSON object last, and writes it to bench/results/distinct.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from transformers import AutoConfig

from bench.load import Batch, Body, send
from bench.machine import describe
from bench.overhead import busy_while_idle, engine_options, say
from bench.servers import Server, running, steersman
from bench.workload import VECTORS, Configuration, bodies, check_receipts, upload_vectors

RESULTS = Path(__file__).parent / "results" / "distinct.json"
COUNTS = (0, 1, 2, 4, 8, 16, 32)
VECTORS_EACH, LAYERS_EACH = 2, 4
FLAT = 0.05
"""Most that the slowest count above 0 may lack of the fastest's tokens per second."""


def distinct(server: Server, count: int, layers: int, seed: int) -> Configuration:
    """A batch whose n-th request is steered in the (n modulo `count`)-th of the ways drawn from
    `seed`: a larger count has all ways of a smaller one and more."""
    draw = random.Random(seed)
    ways: list[Body] = []
    for _ in range(count):
        names = draw.sample([f"bench-{n}" for n in range(VECTORS)], VECTORS_EACH)
        ways.append({"vectors": [_vector(draw, name, layers) for name in names]})
    steering: Callable[[int], Body | None] = lambda n: ways[n % count] if count else None  # noqa: E731
    return Configuration(str(count), server, steering)


def _vector(draw: random.Random, name: str, layers: int) -> Body:
    return {
        "id": name,
        "coefficient": draw.uniform(-1, 1),
        "layers": sorted(draw.sample(range(layers), min(LAYERS_EACH, layers))),
        "positions": "generation",
    }


async def measure(
    configs: Sequence[Configuration], size: int, rounds: int, tokens: int
) -> dict[str, list[Batch]]:
    """The batches of each configuration, in order of rounds."""
    seen: dict[str, list[Batch]] = {config.name: [] for config in configs}
    unlimited = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=unlimited, trust_env=False) as client:
        say("warming up")
        for config in configs:
            check_receipts(config, await send(client, config.server.url, bodies(config, size, 8)))
        for n in range(rounds):
            for config in configs if n % 2 == 0 else reversed(configs):
                batch = await send(client, config.server.url, bodies(config, size, tokens))
                check_receipts(config, batch)
                seen[config.name].append(batch)
            rates = ", ".join(f"{k} {v[-1].tokens_per_second:.1f}" for k, v in seen.items())
            say(f"round {n + 1} of {rounds}, tokens a second: {rates}")
    return seen


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Per count, from its tokens per second in each round: the median, and the ratios to count 0 of
    the same rounds. `flat` compares the medians of the counts above 0."""
    table: dict[str, Any] = {}
    for name, seen in rates.items():
        ratios = [rate / base for rate, base in zip(seen, rates["0"], strict=True)]
        quartiles = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        table[name] = {
            "tokens_per_second": round(median(seen), 1),
            "tokens_per_second_range": [round(min(seen), 1), round(max(seen), 1)],
            "ratio": round(median(ratios), 4),
            "ratio_quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
            "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        }
    steered = [median(ratio) for name, ratio in rates.items() if name != "0"]
    slowest = min(steered) / max(steered)
    return {
        "counts": table,
        "slowest_to_fastest": round(slowest, 4),
        "target": 1 - FLAT,
        "flat": bool(slowest >= 1 - FLAT),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    model = AutoConfig.from_pretrained(arguments.model).get_text_config()
    layers, hidden = model.num_hidden_layers, model.hidden_size
    options = engine_options(arguments)
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    defaults = {"VLLM_CPU_OMP_THREADS_BIND": cores}
    environment = {name: os.environ.get(name, value) for name, value in defaults.items()}
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        # A library of its own: random vectors have no place in the user's.
        home = {"STEERSMAN_HOME": f"{scratch}/home", "VLLM_PLUGINS": "steersman"}
        say("starting vLLM with Steersman")
        command = steersman(arguments.model, options)
        log = Path(scratch, "steersman.log")
        with running("Steersman", command, {**environment, **home}, log) as server:
            say(f"uploading {VECTORS} random vectors for {layers} layers")
            upload_vectors(server, layers, hidden, arguments.seed)
            configs = [distinct(server, n, layers, arguments.seed) for n in arguments.counts]
            before = busy_while_idle([server])
            say(f"cores busy while idle: {before}")
            if sum(before.values()) > 0.2:
                say("WARNING: this machine is not quiet, the figures will not be either")
            seen = asyncio.run(measure(configs, arguments.size, arguments.rounds, arguments.tokens))
            after = busy_while_idle([server])
    rates = {name: [batch.tokens_per_second for batch in runs] for name, runs in seen.items()}
    return {
        "benchmark": "distinct",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "settings": {
            "model": Path(arguments.model).name,
            "layers": layers,
            "hidden_size": hidden,
            "engine_options": options,
            "environment": environment,
            "batch": arguments.size,
            "rounds": arguments.rounds,
            "tokens": arguments.tokens,
            "each_way": f"{VECTORS_EACH} of {VECTORS} vectors, each at {LAYERS_EACH} layers and a "
            "coefficient of its own",
        },
        "cores_busy_while_idle": {"before": before, "after": after},
        **summary(rates),
    }


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tokens per second by distinct steerings.")
    parser.add_argument("--model", help="directory or id (none: the demo model)")
    parser.add_argument("--size", type=int, default=32, help="requests in a batch")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="0 among them")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64, help="output tokens a request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kv-cache", type=int, default=2**30, help="bytes")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on the CPU too")
    parser.add_argument("--engine-args", default="", help="more options for the server")
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args(given)
    if 0 not in arguments.counts or len(set(arguments.counts)) < 2:
        parser.error("--counts: 0, to compare with, and others")
    if max(arguments.counts) > arguments.size:
        parser.error("--counts: no more than --size, or some would not be used")
    arguments.sizes = [arguments.size]  # for the options that all benchmarks share
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.model is None:
        from vectors.demo.model import default_home, prepare_model

        arguments.model = str(prepare_model(default_home(), say))
    result = run(arguments)
    if not arguments.trial:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        say(f"written to {RESULTS}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
