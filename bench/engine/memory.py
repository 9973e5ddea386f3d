"""What an engine's process holds after thousands of short requests: with steering, with the plugin
idle, and vLLM without it; and idle with a oneDNN that keeps compiled code for 16 shapes of matrices
instead of the last 1024, which is what makes all of them grow.

    python -m bench.engine.memory [--seconds 120] [--modes steered idle without few_shapes]

A tiny random model inside one process for each mode. Resident memory is read after giving free
memory back to the system (`malloc_trim`), so that what the allocator keeps is not counted. Prints
one JSON object last, and writes it to bench/results/memory.json.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.report import publish, say

MODES = ("steered", "idle", "without", "few_shapes")
VECTORS, AT_ONCE, EVERY_S = 20, 64, 10.0


def one_mode(mode: str, seconds: float, folder: Path) -> list[tuple[int, float]]:
    """(requests so far, MiB) every few seconds; runs an engine in this process."""
    from vllm import LLM

    from steersman.steering.plan import Plan
    from tests.support.engine.engine import Ask, Engine
    from tests.support.matrix import tiny
    from tests.support.matrix.questions import one

    model = tiny.make_model(folder / "model")
    norms = tiny.stream_norms(model, tuple(range(50)))
    library = folder / "library"
    digests = [tiny.make_vector(library, norms, tiny.HIDDEN, seed) for seed in range(VECTORS)]
    config = {} if mode == "without" else {"steersman": {"library": str(library), "bank_rows": 24}}
    engine = Engine(
        LLM(
            str(model), dtype="float32", enforce_eager=True, block_size=32, max_model_len=512,
            max_num_seqs=AT_ONCE, kv_cache_memory_bytes=2**25, seed=0, additional_config=config,
        )
    )  # fmt: skip
    chance, process = random.Random(0), psutil.Process()
    found: list[tuple[int, float]] = []
    began, asked = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        asks = []
        for n in range(AT_ONCE):
            prompt = tuple(chance.randrange(500) for _ in range(chance.randrange(10, 60)))
            vector = one(chance.choice(digests), chance.random(), (0, 2))
            plan = Plan((vector,)) if mode == "steered" and n % 2 else None
            asks.append(Ask(prompt, plan, chance.randrange(2, 16)))
        engine.ask(*asks)
        asked += AT_ONCE
        if time.monotonic() - began > EVERY_S * len(found):
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            found.append((asked, round(process.memory_info().rss / 2**20, 1)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--inside", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        with tempfile.TemporaryDirectory(prefix="memory-") as folder:
            print(json.dumps(one_mode(args.inside, args.seconds, Path(folder))))
        return
    curves: dict[str, Any] = {}
    for mode in args.modes:
        environment = {
            "VLLM_PLUGINS": "" if mode == "without" else "steersman",
            "VLLM_USE_V2_MODEL_RUNNER": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        if mode == "few_shapes":
            environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16"
        command = [sys.executable, "-m", "bench.engine.memory", "--seconds", str(args.seconds)]
        ended = subprocess.run(
            [*command, "--inside", mode],
            env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        curves[mode] = json.loads(ended.stdout.splitlines()[-1])
        say(f"{mode}: {curves[mode]}")
    publish("memory", {"requests_and_mib": curves})


if __name__ == "__main__":
    main()
