"""What dynamic composition costs: its time per token, what it takes from others, and how both grow
with the text.

One engine inside this process. A dynamic request of k properties is k + 2 streams, in one or two
engine steps a token. In every round each of these runs once, the order turning round each time:

- one static request of k vectors alone, and one dynamic request alone, for each k, each divergence,
  greedily and at temperature 1;
- the same at each length of text, for k = 2;
- 16 ordinary requests, and the same beside a dynamic request that outlasts them.

Ratios are of the same round. Then the way without a cache, as in the paper's code: k + 2 forwards
of the whole text for each token, here by Hugging Face's model in the same process.

    python -m bench.engine.dynamic [--rounds 9] [--tokens 24] [--model DEMO_DIR]

Prints one JSON object last, and writes it to bench/results/dynamic.json.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from vllm.inputs import TokensPrompt

from bench.engine.distinct import engine_options, start
from bench.report import publish, say
from bench.servers import demo_model
from bench.summary import quartiles
from bench.workload import SUBJECTS
from steersman.steering.plan import PLAN_KEY, RECEIPTS, Dynamic, Plan, PlannedVector
from steersman.steering.plan.receipt import Pace
from steersman.vectors.demo.make import fill_library
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

PROPERTIES = (1, 2, 3, 4)
VECTORS = ("cheerful", "first_person", "formal", "past")
"""Of the demo."""
START = 2.0
"""The coefficient of static requests, and where dynamic ones start and end."""
SAMPLING = {"greedy": 0.0, "sampled": 1.0}
LENGTHS = (50, 200, 800)
"""Tokens of text when the timed tokens begin."""
OF_LENGTHS = 2
"""Properties in the curve by length, and beside neighbours."""
NEIGHBOURS = 16
TARGETS = {2: 1.7, 4: 2.0}
"""Most that a token may take, by the number of properties, in times of a static request's."""
NEIGHBOURS_TARGET = 1.15


class Job(NamedTuple):
    """One request, and how many tokens it is to have."""

    prompt: list[int]
    plan: Plan | None
    tokens: int
    temperature: float = 0.0


class Arm(NamedTuple):
    """What is run once a round."""

    jobs: list[Job]
    timed: int = 1
    """Of the first so many jobs."""


class Seen(NamedTuple):
    """What one run of an arm came to."""

    seconds: float
    """Of a token."""
    pace: Pace
    """Of the last job, where that is dynamic."""
    tokens: int
    """Of its answer."""


def measure(engine: Any, arm: Arm) -> Seen:
    """Median seconds from one token of the timed jobs to its next; ends when they end.

    The first two tokens are left out: their time is that of the prompts.
    """
    from vllm import SamplingParams

    for n, job in enumerate(arm.jobs):
        extra = None
        if job.plan is not None:
            RECEIPTS.open(str(n))
            extra = {PLAN_KEY: replace(job.plan, receipt=str(n)).to_json()}
        parameters = SamplingParams(
            temperature=job.temperature, seed=0, max_tokens=job.tokens, ignore_eos=True,
            extra_args=extra,
        )  # fmt: skip
        engine.add_request(str(n), TokensPrompt(prompt_token_ids=job.prompt), parameters)
    at: dict[str, list[float]] = {str(n): [] for n in range(arm.timed)}
    open_ones = set(at)
    while open_ones:
        for output in engine.step():
            if output.request_id in at:
                at[output.request_id].append(time.perf_counter())
                if output.finished:
                    open_ones.discard(output.request_id)
    engine.abort_request([str(n) for n in range(arm.timed, len(arm.jobs))])
    while engine.has_unfinished_requests():
        engine.step()
    pace = Pace()
    for n, job in enumerate(arm.jobs):
        if job.plan is not None:
            notes = RECEIPTS.read(str(n))
            RECEIPTS.close(str(n))
            pace = notes[-1].pace if notes else pace
    took = median(b - a for times in at.values() for a, b in itertools.pairwise(times[1:]))
    return Seen(took, pace, arm.jobs[-1].tokens)


def vectors_of(model: str, library: Path) -> list[PlannedVector]:
    """The demo's vectors, each at its layers and twice its default coefficient: the end of its safe
    range, where steering changes many tokens and drafts have something to miss."""
    fill_library(Path(model), library, say)
    entries = [Library(library).resolve(name) for name in VECTORS]
    return [
        PlannedVector(
            one.digest,
            START,
            tuple(HookPoint("resid_post", layer) for layer in one.layers),
            "generation",
        )
        for one in entries
    ]


def plans(vectors: Sequence[PlannedVector], k: int) -> dict[str, Plan]:
    """A static plan of k vectors, and the dynamic ones of the same."""
    these = tuple(vectors[:k])
    return {
        "static": Plan(these),
        "sum": Plan(these, "", Dynamic(START, 0.95, mean=False)),
        "mean": Plan(these, "", Dynamic(START, 0.95, mean=True)),
    }


def without_cache(model: str, ids: Sequence[int]) -> Callable[[int], float]:
    """Seconds of a token as a function of the text's length: k + 2 forwards of the whole text."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def seconds(length: int) -> float:
        text = torch.tensor([list(ids[:length])])
        began = time.perf_counter()
        with torch.no_grad():
            for _ in range(OF_LENGTHS + 2):
                reference(input_ids=text, use_cache=False, logits_to_keep=1)
        return time.perf_counter() - began

    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Of rounds: the median ratio and its spread."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    first, third = quartiles(found)
    return {
        "ratio": round(median(found), 3),
        "quartiles": [round(first, 3), round(third, 3)],
        "range": [round(min(found), 3), round(max(found), 3)],
    }


def arms(ids: list[int], vectors: Sequence[PlannedVector], tokens: int) -> dict[str, Arm]:
    """By name: the setting, then `static`, `sum` or `mean`."""
    found = {}
    for k, (how, temperature) in itertools.product(PROPERTIES, SAMPLING.items()):
        for kind, plan in plans(vectors, k).items():
            found[f"{k} {how} {kind}"] = Arm([Job(ids[: LENGTHS[0]], plan, tokens, temperature)])
    of = plans(vectors, OF_LENGTHS)
    for length, kind in itertools.product(LENGTHS[1:], ("static", "sum")):
        found[f"length {length} {kind}"] = Arm([Job(ids[:length], of[kind], tokens)])
    crowd = [Job(ids[n : n + 30], None, tokens) for n in range(NEIGHBOURS)]
    found["crowd alone"] = Arm(crowd, NEIGHBOURS)
    long = Job(ids[100:130], of["sum"], 2 * tokens)
    found["crowd beside"] = Arm([*crowd, long], NEIGHBOURS)
    return found


def seconds(runs: Sequence[Seen]) -> list[float]:
    return [one.seconds for one in runs]


def judged(k: int, how: str, kind: str, seen: dict[str, list[Seen]]) -> dict[str, Any]:
    """What one setting costs."""
    ours = seen[f"{k} {how} {kind}"]
    found = ratios(seconds(ours), seconds(seen[f"{k} {how} static"]))
    # The answer's first token comes before the steps that are counted.
    steps = sum(one.pace.steps for one in ours) / sum(one.tokens - 1 for one in ours)
    kept, drafts = sum(one.pace.kept for one in ours), sum(one.pace.drafts for one in ours)
    if k in TARGETS:
        found |= {"target": TARGETS[k], "met": found["ratio"] <= TARGETS[k]}
    return found | {
        "ms_per_token": round(1000 * median(seconds(ours)), 1),
        "steps_per_token": round(steps, 3),
        "drafts_kept": round(kept / drafts, 3) if drafts else None,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        vectors = vectors_of(arguments.model, Path(scratch))
        say("starting vLLM with Steersman")
        llm = start(arguments, scratch)
        text = " ".join(
            f"Of {subject}, {n} things are to be known."
            for n, subject in zip(range(200), itertools.cycle(SUBJECTS), strict=False)
        )
        ids = llm.get_tokenizer().encode(text)
        runs = arms(ids, vectors, arguments.tokens)
        seen: dict[str, list[Seen]] = {name: [] for name in runs}
        for name in runs:  # To warm up.
            measure(llm.llm_engine, runs[name])
        end = time.monotonic() + 60 * arguments.minutes
        for n in range(arguments.rounds):
            if n and time.monotonic() > end:
                break
            for name in runs if n % 2 == 0 else reversed(runs):
                seen[name].append(measure(llm.llm_engine, runs[name]))
            last = ", ".join(f"{name} {1000 * all_[-1].seconds:.1f}" for name, all_ in seen.items())
            say(f"round {n + 1} of {arguments.rounds}, ms a token: {last}")
        reference = without_cache(arguments.model, ids)
        reference(LENGTHS[0])
        forwards = {
            length: [reference(length) for _ in range(arguments.forwards)] for length in LENGTHS
        }
    seen |= {f"length {LENGTHS[0]} {kind}": seen[f"{OF_LENGTHS} greedy {kind}"]
             for kind in ("static", "sum")}  # fmt: skip
    others = ratios(seconds(seen["crowd beside"]), seconds(seen["crowd alone"]))
    return {
        "settings": {
            "model": Path(arguments.model).name,
            "rounds": len(seen["crowd alone"]),
            "tokens": arguments.tokens,
            "vectors": {name: one.digest for name, one in zip(VECTORS, vectors, strict=True)},
            "start": START,
        },
        "dynamic_to_static": {
            str(k): {
                how: {kind: judged(k, how, kind, seen) for kind in ("sum", "mean")}
                for how in SAMPLING
            }
            for k in PROPERTIES
        },
        "neighbours": {**others, "requests": NEIGHBOURS, "target": NEIGHBOURS_TARGET,
                       "met": others["ratio"] <= NEIGHBOURS_TARGET},
        "ms_per_token_by_length": {
            str(length): {
                "static": round(1000 * median(seconds(seen[f"length {length} static"])), 1),
                "dynamic": round(1000 * median(seconds(seen[f"length {length} sum"])), 1),
                "without_cache": round(1000 * median(forwards[length]), 1),
            }
            for length in LENGTHS
        },
    }  # fmt: skip


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What dynamic composition costs.")
    engine_options(parser)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=24, help="timed tokens of each request")
    parser.add_argument(
        "--minutes", type=float, default=60, help="after so many no new round begins"
    )
    parser.add_argument("--forwards", type=int, default=3, help="forwards without a cache")
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args(given)
    arguments.size = NEIGHBOURS + OF_LENGTHS + 2
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.model = arguments.model or demo_model()
    publish("dynamic", run(arguments), keep=not arguments.trial)


if __name__ == "__main__":
    main()
