"""The first hour on a GPU: what can be measured nowhere else, in one command.

    python -m bench.engine.gpu_day [--model ID] [--moe ID] [--fp8 ID] [--quick]

Each step is a benchmark of `bench/` in a process of its own, or a start of the server with its
self-check. A step that this machine cannot do, or that was given no model, is skipped, and the
reason is in the result. Beside each stand the figures to beat. A step that fails does not stop the
others. `--quick` takes few rounds and small batches, to see that every step runs, and keeps no
file. Prints one JSON object last, and writes it to bench/results/gpu_day.json.

It has not been run on a GPU yet: none could be had when it was written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.report import publish, say
from bench.servers import running, steersman

STEP_SECONDS = 1800
"""The longest that a step may take."""
LAST = 2000
"""Characters of a failed step's output that are kept."""


@dataclass(frozen=True)
class Machine:
    """What steps need of a machine."""

    gpus: int

    @classmethod
    def here(cls) -> Machine:
        return cls(torch.cuda.device_count() if torch.cuda.is_available() else 0)


@dataclass(frozen=True)
class Step:
    """One measurement."""

    name: str
    beat: str
    """The figures to beat, and whose they are."""
    skip: str | None
    """Why it is not done here; None: it is."""
    run: Callable[[], Any]
    """Returns what was found; raises RuntimeError."""


def steps(options: argparse.Namespace, machine: Machine) -> list[Step]:
    """All steps, in the order in which they are worth their time."""
    quick = options.quick
    small = ["--rounds", "1", "--tokens", "8"] if quick else []
    trial = ["--trial"] if quick else []
    model = ["--model", options.model] if options.model else []
    sizes = ["1", "2"] if quick else ["1", "8", "32", "128", "256"]
    counts = ["0", "1", "2"] if quick else ["0", "1", "8", "32", "128", "256"]
    no_gpu = None if machine.gpus else "needs a GPU"
    two = None if machine.gpus > 1 else f"needs two GPUs, {machine.gpus} here"
    half_kernel = ["--batches", "1", "8", "--terms", "1"] if quick else []
    few = ["--size", "2"] if quick else []
    overhead = ["bench.overhead", *model, "--sizes", *sizes, *small, *trial]

    def bench(arguments: Sequence[str]) -> Callable[[], Any]:
        return lambda: benchmark(arguments)

    return [
        Step("kernel", "bandwidth of a copy of the same bytes: `of_copy` 1 at batch 128 and more",
             no_gpu, bench(["bench.engine.kernel", *half_kernel])),
        Step("launches", "plain vLLM's kernels a step, and one a layer more; 0 more when idle with "
             "two graph sets", None, bench(["bench.engine.launches", *model, *few, *trial])),
        Step("overhead", "plain vLLM; hotwire 1.78 to 1.78 ms a token; RhizoNymph +0.0% named, "
             "+2.7% for 16 inline vectors. Own target: idle 1.01, one vector 1.02, mixes 1.03",
             None, bench(overhead)),
        Step("distinct", "EasySteer falls from 30,633 to 5,620 tok/s from 0 to 256 ways. Own "
             "target: within 3%", None,
             bench(["bench.engine.distinct", *model, "--size", counts[-1], "--counts", *counts,
                    *small, *trial])),
        Step("dynamic", "1.06 to 1.25 of a static request (estimated)", None,
             bench(["bench.engine.dynamic", *model, *small, *trial])),
        Step("moe", "the self-check passes", no_gpu or _unnamed(options.moe, "--moe"),
             lambda: start(options.moe)),
        Step("fp8", "the self-check passes", no_gpu or _unnamed(options.fp8, "--fp8"),
             lambda: start(options.fp8)),
        Step("tensor_parallel", "as `overhead`", two,
             bench([*overhead, "--engine-args", "--tensor-parallel-size 2"])),
    ]  # fmt: skip


def _unnamed(model: str | None, option: str) -> str | None:
    return None if model else f"no model: name one with {option}"


def benchmark(arguments: Sequence[str]) -> Any:
    """What a benchmark of `bench/` prints last. Raises RuntimeError."""
    command = [sys.executable, "-m", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it took over {STEP_SECONDS} s") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-LAST:]}")
    return json.loads(lines[-1])


def start(model: str) -> Any:
    """Start the server, whose self-check ends it where steering is not exact. Returns the seconds
    until it was ready. Raises RuntimeError with the end of its log."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = steersman(model, ["--library", f"{folder}/library"])
        with running("steersman", command, {}, Path(folder) / "log"):
            return {"model": model, "ready_seconds": round(time.monotonic() - began, 1)}


def run(planned: Sequence[Step]) -> list[dict[str, Any]]:
    """The outcome of each step: "ran" with what was found, "skipped" or "failed" with the
    reason."""
    found = []
    for step in planned:
        outcome: dict[str, Any] = {"step": step.name, "beat": step.beat}
        began = time.monotonic()
        if step.skip is not None:
            outcome |= {"status": "skipped", "reason": step.skip}
        else:
            say(f"{step.name} ...")
            try:
                outcome |= {"status": "ran", "found": step.run()}
            except RuntimeError as error:
                outcome |= {"status": "failed", "reason": str(error)}
            outcome["seconds"] = round(time.monotonic() - began, 1)
        say(f"{step.name}: {outcome['status']}, {outcome.get('reason', 'to beat: ' + step.beat)}")
        found.append(outcome)
    return found


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The first hour on a GPU.")
    parser.add_argument("--model", help="directory or id of a dense model (none: the demo model)")
    parser.add_argument("--moe", help="directory or id of a model with experts")
    parser.add_argument("--fp8", help="directory or id of a model in FP8")
    parser.add_argument("--quick", action="store_true", help="see that the steps run; no file")
    parser.add_argument("--only", nargs="+", help="names of steps")
    return parser.parse_args(given)


def main() -> None:
    options = parse_arguments()
    planned = steps(options, Machine.here())
    names = [step.name for step in planned]
    if unknown := set(options.only or ()) - set(names):
        sys.exit(f"no step {', '.join(sorted(unknown))}; steps are {', '.join(names)}")
    found = run([step for step in planned if not options.only or step.name in options.only])
    publish("gpu_day", {"steps": found}, keep=not options.quick)
    sys.exit(any(outcome["status"] == "failed" for outcome in found))


if __name__ == "__main__":
    main()
