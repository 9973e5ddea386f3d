"""What a step has the device do: kernels of a decode step without Steersman, with it idle, under
one way of steering, and under as many as there are requests.

Each is an engine in a process of its own, whose steps are traced by PyTorch's profiler. On a GPU
kernels are counted, whether a CUDA graph launched them or not; on a CPU, PyTorch's operations. The
operation of this project is counted by itself: one a layer in a graph, and 0 when idle if there are
graphs without it (--graphs-without-steering). Eager steps on a CPU add without the operation.

    python -m bench.engine.launches [--model DIR_OR_ID] [--size 32] [--compiled]

Prints one JSON object last, and writes it to bench/results/launches.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.engine.distinct import engine_options, fill, plan, run_batch, start, ways
from bench.machine import has_gpu
from bench.report import publish, say
from bench.servers import demo_model
from steersman.vectors.library.library import Library

MODES = ("without", "idle", "idle, two graph sets", "one way", "all ways")
TOKENS = 8
OURS = ("steersman::add", "steersman::steer", "add_block", "steer_block")
"""The operation on a CPU, and the kernel on a GPU."""


def counted(run: Callable[[], int]) -> dict[str, float]:
    """Events a step, of all kernels (operations on a CPU) and of ours, while `run` makes steps and
    returns how many."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if has_gpu() else ProfilerActivity.CPU
    with profile(activities=[activity]) as trace:
        steps = run()
    names = Counter(
        event.name
        for event in trace.events()
        if not has_gpu() or str(event.device_type).endswith("CUDA")
    )
    ours = sum(count for name, count in names.items() if any(own in name for own in OURS))
    return {"all": round(names.total() / steps, 1), "ours": round(ours / steps, 2)}


def one(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Count in one engine, in this process."""
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        settings = {"graphs_without_steering": True} if "graph sets" in name else {}
        plugins = "" if name == "without" else "steersman"
        llm = start(arguments, scratch, plugins=plugins, **settings)
        config = llm.llm_engine.model_config
        layers, hidden = config.get_total_num_hidden_layers(), config.get_hidden_size()
        digests = fill(Library(Path(scratch)), layers, hidden, arguments.seed)
        count = {"one way": 1, "all ways": arguments.size}.get(name, 0)
        taken = ways(count, layers, arguments.seed)
        prompts = [[2 + n, 3, 4, 5] for n in range(arguments.size)]

        def run() -> int:
            plans = [
                plan(taken[n % len(taken)], digests, f"r{n}") if taken else None
                for n in range(arguments.size)
            ]
            run_batch(llm.llm_engine, prompts, plans, TOKENS)
            return TOKENS

        run()  # Vectors are read, kernels compiled.
        return counted(run)


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a step has the device do.")
    engine_options(parser)
    parser.add_argument("--size", type=int, default=32, help="requests of the batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", action="store_true", help="keep no file")
    parser.add_argument("--inside", choices=MODES, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> None:
    arguments = parse_arguments()
    arguments.model = arguments.model or demo_model()
    if arguments.inside:
        print(json.dumps(one(arguments.inside, arguments)))
        return
    found = {}
    for name in MODES:
        if "graph sets" in name and not has_gpu():
            continue  # No CPU captures graphs.
        say(f"{name} ...")
        command = [sys.executable, "-m", "bench.engine.launches", *sys.argv[1:], "--inside", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: exit status {done.returncode}")
        found[name] = json.loads(done.stdout.strip().splitlines()[-1])
    publish(
        "launches",
        {"counts": "kernels" if has_gpu() else "operations", "a_step": found},
        keep=not arguments.trial,
    )


if __name__ == "__main__":
    main()
